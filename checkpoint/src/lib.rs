//! Saves a capsule, checks a saved one, restores it, and hands it over between two nodes.
