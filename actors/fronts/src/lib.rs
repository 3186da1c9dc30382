//! Front ends of a node: what speaks a protocol of the world on one side, and requests of the mesh on the other. They know
//! mesh-core only.

pub mod s3;
