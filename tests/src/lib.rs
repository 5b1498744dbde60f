//! Tests that boot containerVMs; see the folder `vm`.
