//! The frozen SafeSwitch journal record and its legal transitions.
