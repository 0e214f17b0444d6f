"""Runs `chaos_stub.main`. Child processes import the program of their parent: this one, which imports nothing."""

if __name__ == "__main__":
    import chaos_stub

    chaos_stub.main()
