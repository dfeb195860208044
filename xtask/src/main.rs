//! Project tasks: cargo xtask {demo,test,ci,bench,tidy,layers,deny,codegen,hosts,dev}.

fn main() {}
