//! What does the mesh's computing on this machine.
//!
//! A storage function never encrypts, codes or checks by itself: it starts a
//! [`ComputeJob`](mesh_core::port::ComputeJob), and the node it runs on does the job through the
//! [`Compute`](mesh_core::port::Compute) port. This crate has the implementations of that port. There is one:
//! [`offload::software`], which uses the SIMD instructions of whatever core it runs on, on a host or on a DPU's Arm
//! cores alike. No accelerator is used, and no card is looked for.

pub mod offload;
