//! What functions count, by name: so that every node tells the same, whatever runs there.

use mesh_core::{
    Chain,
    figures::{Figures as _, Page},
};

use crate::{drive, erasure, keeper, object, policy};

/// Names what the mesh's own functions count.
pub fn declare(page: &mut Page) {
    Chain::declare(page);
    drive::Counted::declare(page);
    erasure::Counted::declare(page);
    keeper::Kept::declare(page);
    object::Counted::declare(page);
    policy::Decided::declare(page);
}
