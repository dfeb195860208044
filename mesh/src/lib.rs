//! The mesh endpoint: authenticated QUIC links and streams between nodes.
