"""The embedded models: scenes of coloured shapes, small architectures and their trainer."""
