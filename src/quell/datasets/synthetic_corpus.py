"""The demo corpus: synthetic speech and noise, to try all commands without recordings.

The speech is espeak-ng's formant synthesis, with consonants, pauses and intonation, but far cleaner and more regular
than natural speech. Scores on it show that everything works; they do not predict scores on real recordings.
"""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import soundfile
from numpy.random import Generator
from numpy.typing import NDArray

from quell.atomic import new_folder
from quell.datasets.espeak import SPEECH_RATE, Espeak
from quell.errors import CorpusError

Signal = NDArray[np.float64]
Noise = Callable[[int, int, Generator], Signal]  # (source, length in samples, random generator of one take)

NOISE_RATE = 16_000  # Hz
BLOCK = 320  # samples at NOISE_RATE: 20 ms, 441 samples at SPEECH_RATE; multiples of it are fast in FFTs
SENTENCES_PER_SPEAKER = 17
SOURCES = 8  # of each noise class, two takes each

ACCENTS = ["en-us", "en-us-nyc", "en", "en-gb-x-rp", "en-gb-scotland", "en-gb-x-gbclan", "en-gb-x-gbcwmd", "en-029"]
VARIANTS = ("m1", "f1", "m2", "f2", "m3", "f3", "m4", "f4", "m5", "m6", "m7")
SPEAKERS = tuple(
    f"{accent}+{VARIANTS[(3 * row + column) % len(VARIANTS)]}"
    for row, accent in enumerate(ACCENTS)
    for column in range(3)
)
# espeak-ng builds a voice from an accent and a variant (the vocal tract). Babble shares no variant with the speakers.
# Its sources, each a diagonal through the accents, share no voice with one another.
BABBLE_VARIANTS = ("m8", "f5", "rob", "steph", "quincy", "belinda")
BABBLE = tuple(
    tuple(f"{ACCENTS[(source + row) % len(ACCENTS)]}+{variant}" for row, variant in enumerate(BABBLE_VARIANTS))
    for source in range(SOURCES)
)

SENTENCES = """\
My cousin keeps three noisy geese behind the old bakery.
If the kettle whistles again, pour the water and call me.
Nobody told the plumber which of the valves was leaking.
A yellow ferry crosses the harbour every forty minutes.
We measured the garden twice, yet the fence came up short.
Put the heavy boxes near the door, not under the window.
She hums the same cheerful tune while fixing bicycles.
Thick fog rolled over the airport shortly after dawn.
The museum shuts on Mondays, which we only learned on arrival.
Could you pass the mustard, and maybe a clean spoon as well?
His umbrella turned inside out at the corner of the square.
Fresh basil and ripe tomatoes are all this pasta needs.
The judge asked for silence, and even the clock seemed to obey.
Our train was late because a goat had wandered onto the track.
Twelve small boats raced around the lighthouse and back.
I usually read the last page first, though I never admit it.
The vet gave our nervous puppy a biscuit before the vaccine.
Julia chose purple paint for the kitchen, and regretted it.
When the power failed, we played cards by the fire until midnight.
The choir rehearses upstairs, so the ceiling shakes on Thursdays.
Leave a key with the neighbours in case the parcel comes early.
A thin layer of ice covered the pond, the path and the steps.
Both engineers agreed that the bridge should be widened.
The shop on the hill sells string, soap, candles and gossip.
Why does this drawer always jam when guests are watching?
They voted to plant birch trees along the northern road.
An owl called twice from the chimney, then flew off to the woods.
Grandfather repairs watches at a desk no bigger than a tray.
Please speak slowly, the line from the island is rather poor.
The chef threw the burnt onions out and began the soup again.
Zebras at the zoo were unmoved by the thunder.
Rough weather pushed the oil ship far beyond its usual route.
You may borrow my jacket, provided you return the gloves.
In the evening, the whole valley smells of hay and smoke.
The pharmacist explained both labels without losing patience.
Five judges tasted the jam, and four of them asked for more.
He boiled an egg, buttered some toast, and forgot about both.
Every third page of the atlas had been cut out with care.
The lift stopped between two floors, but the music went on.
Most of the audience left before the magician found his rabbit.
Our new teacher rides a scooter and sings in a brass band.
Beneath the stairs lived a broom, a bucket and one large spider.
I would choose the earlier flight, even though it costs more.
Sharp turns ahead, so shift down and stay to the left.
The children built a wobbly tower out of cushions and chairs.
A month without rain had turned the meadow brown and brittle.
Ask the librarian whether the blue volume was ever returned.
The dentist's waiting room has fish, plants and no magazines.
Wind from the west usually brings us showers by noon.
Nine of the vases arrived whole, and the tenth in a thousand pieces.
Show me how you fold the paper so that the bird can flap.
The mechanic listened to the engine and shook her head.
This recipe is older than the house we are standing in.
Although the path looked easy, we reached the hut exhausted.
The youngest player moved her bishop and smiled at the room.
Somebody has eaten the middle out of every single doughnut.
Cheap batteries are fine for the torch, but not for the radio.
Wild thyme grows between the stones of the abandoned quay.
The auction began with a rusty anchor and a box of spoons.
You could hear the waterfall long before it came into view.
""".splitlines()

README = """\
Synthetic demo corpus: English sentences spoken by espeak-ng in speech/, and noise made with numpy in noise/.
Generated by Quell with seed {seed}: no person was recorded; scores on it do not carry over to real speech.
One folder per speaker or noise class; noise files whose names start alike up to the hyphen come from one source.
"""


def make_demo_corpus(folder: Path, *, seed: int = 0) -> None:
    """Writes 25 minutes of speech and 10 of noise, 16-bit WAV, as folder/speech/<voice>/ and folder/noise/<class>/.

    A noise file is named <source>-<take>.wav. The two takes of a source share its parameters, and in babble its voices,
    so they belong in the same split. The same seed gives the same bytes with the same espeak-ng and numpy. The folder
    appears only when complete.

    Args:
        seed: 0 or above.

    Raises:
        CorpusError: folder exists, or espeakng-loader is missing or fails.
    """
    if folder.exists():
        raise CorpusError(f"{folder}: exists, expected a new folder; name another or remove it")
    rng = np.random.default_rng(seed)
    espeak = Espeak(seed)
    with new_folder(folder) as partial_folder:
        _write_corpus(partial_folder, espeak, rng)
        (partial_folder / "README.txt").write_text(README.format(seed=seed), encoding="utf-8")


def _write_corpus(folder: Path, espeak: Espeak, rng: Generator) -> None:
    pitches = rng.permutation(np.linspace(28, 72, len(SPEAKERS)))  # a different one for each speaker
    for voice, pitch in zip(SPEAKERS, pitches, strict=True):
        takes = {f"{number:03}": take for number, take in enumerate(_utterances(espeak, voice, int(pitch), rng))}
        _write(folder / "speech" / voice, takes, SPEECH_RATE)
    classes: dict[str, Noise] = {
        "white": lambda source, length, rng: _coloured(-0.7 + 0.2 * source, length, rng),
        "pink": lambda source, length, rng: _coloured(-3.7 + 0.2 * source, length, rng),
        "hum": _hum,
        "clicks": _clicks,
        "fan": _fan,
        "babble": partial(_babble, espeak),
    }
    for name, make in classes.items():
        takes = {
            f"{name}{source + 1}-{take}": _noise(make, source, rng) for source in range(SOURCES) for take in (1, 2)
        }
        _write(folder / "noise" / name, takes, NOISE_RATE)


def _write(folder: Path, takes: dict[str, NDArray[np.int16]], sample_rate: int) -> None:
    folder.mkdir(parents=True)
    for name, samples in takes.items():
        soundfile.write(folder / f"{name}.wav", samples, sample_rate, subtype="PCM_16")


def _utterances(espeak: Espeak, voice: str, pitch: int, rng: Generator) -> Iterator[NDArray[np.int16]]:
    words_per_minute = int(rng.integers(145, 186))
    volume = int(rng.integers(25, 66))
    for number in rng.permutation(len(SENTENCES))[:SENTENCES_PER_SPEAKER]:
        yield espeak.say(
            voice,
            SENTENCES[number],
            words_per_minute=words_per_minute + int(rng.integers(-8, 9)),
            volume=volume + int(rng.integers(-5, 6)),
            pitch=pitch + int(rng.integers(-4, 5)),
        )


def _noise(make: Noise, source: int, rng: Generator) -> NDArray[np.int16]:
    """5 to 8 s of noise at NOISE_RATE with a peak of 1 to 20 dB below full scale."""
    signal = make(source, BLOCK * int(rng.integers(250, 401)), rng)
    peak = 10 ** (rng.uniform(-20, -1) / 20)
    scaled: Signal = signal * (32767 * peak / np.abs(signal).max())
    return np.round(scaled).astype(np.int16)


def _coloured(db_per_octave: float, length: int, rng: Generator) -> Signal:
    frequency = np.fft.rfftfreq(length, 1 / NOISE_RATE)
    # An octave multiplies the amplitude by 2 ** exponent, which is 6.02 dB * exponent; flat in the inaudible range.
    exponent = db_per_octave / (20 * np.log10(2))
    return np.fft.irfft(np.fft.rfft(rng.standard_normal(length)) * np.maximum(frequency, 20) ** exponent, length)


def _hum(source: int, length: int, rng: Generator) -> Signal:
    """Mains hum of 50 or 60 Hz, from a dull transformer (4 harmonics) to a buzzing dimmer (25)."""
    f0 = (50, 60)[source % 2] + rng.uniform(-0.1, 0.1)  # Hz, as far as a grid drifts in normal operation
    time = np.arange(length) / NOISE_RATE
    hum = 0.01 * rng.standard_normal(length)
    for order in range(1, 5 + 3 * source):
        hum += order ** -(1.5 - 0.15 * source) * np.sin(2 * np.pi * (order * f0 * time + rng.uniform()))
    return hum


def _clicks(source: int, length: int, rng: Generator) -> Signal:
    """Ringing clicks at random times, 2 to 23 per second; sources also differ in pitch and decay."""
    ringing = 500 * 1.4 ** (3 * source % SOURCES)  # Hz
    decay_s = 0.001 * (1 + 5 * source % SOURCES)
    time = np.arange(int(8 * decay_s * NOISE_RATE)) / NOISE_RATE
    click = np.exp(-time / decay_s) * np.sin(2 * np.pi * ringing * time)
    clicks = 1e-3 * rng.standard_normal(length)
    for start in rng.integers(0, length - len(click), int(2 * 1.42**source * length / NOISE_RATE)):
        clicks[start : start + len(click)] += rng.uniform(0.2, 1.0) * click
    return clicks


def _fan(source: int, length: int, rng: Generator) -> Signal:
    """Broadband noise, steeper than pink, modulated by the blades 4 to 33 times per second."""
    time = np.arange(length) / NOISE_RATE
    depth = 0.3 + 0.08 * (5 * source % SOURCES)
    swell = 1 + depth * np.sin(2 * np.pi * (4 * 1.35**source * time + rng.uniform()))
    return swell * _coloured(-4 - 0.5 * (3 * source % SOURCES), length, rng)


def _babble(espeak: Espeak, source: int, length: int, rng: Generator) -> Signal:
    """Three to six of the source's voices, each with its own sentences, speaking without pauses."""
    blocks = length // BLOCK + 2  # one more on either side, for the ringing of the resampling
    crowd = np.zeros(blocks * BLOCK * SPEECH_RATE // NOISE_RATE)
    for voice in BABBLE[source][: 3 + source % 4]:
        spoken = np.zeros(0, dtype=np.int16)
        skipped = int(rng.integers(SPEECH_RATE))
        pitch = int(rng.integers(35, 66))
        while len(spoken) < skipped + len(crowd):
            text = SENTENCES[rng.integers(len(SENTENCES))]
            sentence = espeak.say(voice, text, words_per_minute=int(rng.integers(150, 191)), volume=50, pitch=pitch)
            spoken = np.concatenate([spoken, sentence])
        crowd += rng.uniform(0.4, 1.0) * spoken[skipped : skipped + len(crowd)]
    spectrum = np.fft.rfft(crowd)[: BLOCK * blocks // 2 + 1]  # up to half of NOISE_RATE
    return np.fft.irfft(spectrum, BLOCK * blocks)[BLOCK:-BLOCK]
