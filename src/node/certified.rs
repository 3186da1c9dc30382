//! What a node's certificate says of it, held against its configuration before anything of it begins.

use mesh_core::{Error, port::Role};

use crate::config::Config;

/// Refuses a certificate that says something else than the configuration. That of a host does for a DPU, too, of a mesh of before
/// there were others: the log says how to replace it.
///
/// # Errors
/// `Invalid`, with what both say and which of them is to be changed how.
pub(super) fn expect(certified: &Role, config: &Config) -> Result<(), Error> {
    let configured = config.role();
    if *certified == configured {
        return Ok(());
    }
    match (certified, &configured) {
        (Role::Node(node), Role::Dpu { node: number, host }) if node == number => {
            let how = format!("mesh certificate node --node {} --dpu-of {}", number.0, host.0);
            tracing::warn!(%node, "this DPU's certificate is that of a host: have one made for it where `mesh init` was run, with `{how}`");
            Ok(())
        }
        (Role::Dpu { node, host }, _) if configured.node() == Some(*node) => {
            let what = "the certificate is of a DPU in another host than the configuration says, or of none there: set \
                        `attached_to` in the [dpu] section to its host, or have a certificate made for what this node is, \
                        with `mesh certificate node`";
            let configured =
                config.dpu.as_ref().map_or_else(|| "no DPU".to_owned(), |dpu| dpu.attached_to.id().to_string());
            Err(Error::invalid(what).with("certificate", host).with("configuration", configured))
        }
        _ => Err(Error::invalid(
            "the certificate is not this node's: have one made for it, with `mesh certificate node`",
        )
        .with("node", config.node.id())
        .with("certificate", format!("{certified:?}"))),
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use mesh_core::{ErrorKind, Principal, id::NodeId};

    use super::*;
    use crate::config::{DpuConfig, NodeNumber};

    fn config(node: u64, host: Option<u64>) -> Config {
        let dpu = host.map(|host| DpuConfig { attached_to: NodeNumber(host), emulated: None });
        Config { dpu, ..Config::new(NodeNumber(node), ([127, 0, 0, 1], 7000).into(), PathBuf::from("data")) }
    }

    #[test]
    fn a_node_starts_as_what_its_certificate_says_or_not_at_all() {
        let dpu = |host| Role::Dpu { node: NodeId(11), host: NodeId(host) };
        let host = |node| Role::Node(NodeId(node));
        let cases = [
            (host(11), config(11, None), None),
            // Of before there were certificates for DPUs.
            (host(11), config(11, Some(1)), None),
            (dpu(1), config(11, Some(1)), None),
            (dpu(1), config(11, Some(2)), Some("[certificate=node-1 configuration=node-2]")),
            (dpu(1), config(11, None), Some("[certificate=node-1 configuration=no DPU]")),
            (dpu(1), config(1, None), Some("not this node's")),
            (dpu(1), config(12, Some(1)), Some("not this node's")),
            (host(1), config(11, Some(1)), Some("not this node's")),
            (host(12), config(11, None), Some("not this node's")),
            (Role::Client(Principal::Admin { name: "root".into() }), config(11, None), Some("not this node's")),
        ];
        for (certified, config, refused) in cases {
            let error = expect(&certified, &config).err();
            assert_eq!(
                error.as_ref().map(Error::kind),
                refused.map(|_| ErrorKind::Invalid),
                "{certified:?}: {error:?}"
            );
            if let (Some(error), Some(why)) = (error, refused) {
                assert!(error.to_string().contains(why), "{certified:?}: {error}");
            }
        }
    }
}
