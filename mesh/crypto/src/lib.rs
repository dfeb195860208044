//! Noise XXhfs+psk0 with X25519 and ML-KEM-768, keying QUIC.
