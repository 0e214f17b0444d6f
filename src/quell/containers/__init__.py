"""What the bytes of a sound file say of themselves: chunks, frames, pages, tags; where they contradict the header."""
