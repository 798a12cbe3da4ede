"""The books' proof: real processes, real threads, a real upstream; see each module for what it shows."""
