//! Pure rules of the mesh: admission, invites, knock, service table.
