"""A Ray cluster: `ray_head.py NODES CPUS GPUS [VERSION]` prints its address, and ends with its standard input."""

import sys
import warnings

warnings.simplefilter("ignore")  # of what later versions of Ray will do

import ray  # noqa: E402
from ray.cluster_utils import Cluster  # noqa: E402

nodes, cpus, gpus = map(int, sys.argv[1:4])
if sys.argv[4:]:
    ray.__version__ = sys.argv[4]
cluster = Cluster()
for _ in range(nodes):
    cluster.add_node(num_cpus=cpus, num_gpus=gpus)
print(cluster.address, flush=True)
sys.stdin.read()
cluster.shutdown()
