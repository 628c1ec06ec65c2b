//! The kernel-level envelope of an app: namespaces, ids, root, terminal, init.
