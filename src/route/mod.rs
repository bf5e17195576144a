//! From what a session declares and the topology to a node.
