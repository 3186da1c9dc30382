use mesh_core::{
    Answer, Buf, Effect, ErrorKind, Job,
    op::ShardOp,
    port::{DiskJob, WorkOutput},
};

use super::world::{BLOCK, World, bytes, shard, write};

#[test]
fn gives_back_what_was_stored_of_every_size() {
    let mut world = World::new(8, 64);
    let sizes = [0, 1, 127, 3967, 3968, 3969, 4095, 4096, 4097, 8192, 20_000, 61 * BLOCK];
    for (n, &len) in (1..).zip(&sizes) {
        assert_eq!(world.put(shard(n), &bytes(n, len)), Ok(()), "{len} bytes");
    }
    for restart in [false, true] {
        if restart {
            world.restart();
        }
        for (n, &len) in (1..).zip(&sizes) {
            assert_eq!(world.get(shard(n)), Ok(bytes(n, len)), "{len} bytes, restarted: {restart}");
        }
        let listed: Vec<_> = (1..).zip(&sizes).map(|(n, &len)| (shard(n), len as u32)).collect();
        assert_eq!(world.list(), listed);
    }
    assert_eq!(world.put(shard(99), &bytes(99, 62 * BLOCK + 1)), Err(ErrorKind::TooLarge));
}
