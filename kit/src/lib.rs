//! What every daemon is built from: boot, tasks, sockets, audit, processes, clock.
