//! The targets on their corpora, and the corpora themselves.

#[cfg(test)]
mod bounded;
#[cfg(test)]
mod corpus;
