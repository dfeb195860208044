//! The dead-man that restores the baseline without help.
