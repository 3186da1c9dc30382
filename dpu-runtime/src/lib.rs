//! What hosts functions on this machine, what does their computing, and what this machine is.
//!
//! A storage function never encrypts or codes by itself: it starts a
//! [`ComputeJob`](mesh_core::port::ComputeJob), and the node it runs on does the job through the
//! [`Compute`](mesh_core::port::Compute) port.
//!
//! | module | what it is for |
//! |---|---|
//! | [`shell`] | a node's actors: functions in mailboxes, where requests are let in, wait, or go after who has moved |
//! | [`agent`] | what a node does of a live move, as its source or its target |
//! | [`disk`] | media of drives: files, block devices, memory |
//! | [`metadata`] | replicas of metadata groups, on Raft over a durable store |
//! | [`offload`] | the compute back ends: [`offload::software`], the SIMD instructions of whatever core it runs on, on a host or on a DPU's Arm cores alike; and, behind the feature `doca`, the loader of the vendor's libraries |
//! | [`probe`] | is this a host or a DPU, which cards are in it, and how do we know |
//! | [`calibrate`] | what a request and a byte of each function cost here, measured |
//! | [`load`] | what each function has used: requests, bytes, CPU time |
//! | [`pin`] | which cores a thread runs on |
//! | [`cgroup`] | a share of the CPU for another process |
//! | [`profile`] | BlueField generations, and what an emulated node of each may use |
//!
//! **No accelerator does any work yet.** The `doca` back end finds the libraries and asks the devices what they can do;
//! every job runs in software, and it says so.
//!
//! Linux only. Paths below `/sys`, `/proc` and `/dev` are taken relative to a root that the caller names, so that tests
//! can show a machine that is not there.

pub mod agent;
pub mod calibrate;
pub mod cgroup;
pub mod disk;
pub mod load;
pub mod metadata;
pub mod offload;
pub mod pin;
pub mod probe;
pub mod profile;
pub mod shell;
