//! What hosts functions on this machine: compute back ends, on a host CPU or on a DPU.

pub mod offload;
