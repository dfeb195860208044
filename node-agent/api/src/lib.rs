//! Types, callers table and one typed client per node daemon.
