// Holds the precompiled header, which belongs to a target that has a source.
