//! The replicated fleet state machine as a pure apply function.
