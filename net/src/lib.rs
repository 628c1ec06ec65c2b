//! Node identity, membership and authenticated connections.
