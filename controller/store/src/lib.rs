//! Controller storage behind one trait.
