//! The mesh daemon: streams for the other daemons of a node.
