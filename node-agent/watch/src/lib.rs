//! SafeSwitch on one host: activation, probation, acceptance, rollback.
