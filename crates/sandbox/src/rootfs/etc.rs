//! The container's `/etc`: a few files of our own, and of the host's what libraries look for.

use std::fmt::Write;
use std::net::Ipv4Addr;
use std::path::Path;

use ace_types::IdRange;

use super::mount::Tree;
use super::{READ_ONLY, bind_where_present};
use crate::failure::{Failure, Step};
use crate::spec::ContainerSpec;

/// What is bound from the host, where it has it; links are followed. Nothing here is secret.
const FROM_HOST: [&str; 20] = [
    "alternatives",
    "crypto-policies",
    "debian_version",
    "gai.conf",
    "host.conf",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "localtime",
    "mime.types",
    "os-release",
    "pki/ca-trust/extracted",
    "pki/tls/cert.pem",
    "pki/tls/certs",
    "pki/tls/openssl.cnf",
    "protocols",
    "services",
    "ssl/certs",
    "ssl/openssl.cnf",
    "timezone",
];

/// Adds `/etc` to the new root.
pub fn add(root: &Tree, spec: &ContainerSpec) -> Result<(), Failure> {
    for (name, content) in rendered(&spec.host_name, &spec.root.nameservers) {
        let path = Path::new("/etc").join(name);
        root.write(&path, &content).step(format!("write {}", path.display()))?;
    }
    for name in FROM_HOST {
        bind_where_present(root, &Path::new("/etc").join(name), READ_ONLY)?;
    }
    Ok(())
}

/// The files of our own: (name, content).
fn rendered(host_name: &str, nameservers: &[Ipv4Addr]) -> [(&'static str, String); 6] {
    [
        ("passwd", passwd()),
        ("group", group()),
        ("hostname", format!("{host_name}\n")),
        ("hosts", format!("127.0.0.1 localhost {host_name}\n")),
        ("nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n".to_owned()),
        ("resolv.conf", resolv_conf(nameservers)),
    ]
}

fn passwd() -> String {
    let (root, app) = (IdRange::INIT, IdRange::APP);
    format!(
        "root:x:{root}:{root}::/:/usr/sbin/nologin\n\
         app:x:{app}:{app}::/tmp:/bin/sh\n\
         nobody:x:65534:65534::/:/usr/sbin/nologin\n"
    )
}

fn group() -> String {
    format!("root:x:{}:\napp:x:{}:\nnogroup:x:65534:\n", IdRange::INIT, IdRange::APP)
}

fn resolv_conf(nameservers: &[Ipv4Addr]) -> String {
    nameservers.iter().fold(String::new(), |mut text, address| {
        let _ = writeln!(text, "nameserver {address}"); // A string can't refuse it.
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_nameserver_has_its_line() {
        let addresses = [Ipv4Addr::new(198, 18, 0, 1), Ipv4Addr::new(9, 9, 9, 9)];
        assert_eq!(resolv_conf(&addresses), "nameserver 198.18.0.1\nnameserver 9.9.9.9\n");
    }

    #[test]
    fn the_tenant_has_a_name_and_a_home() {
        assert!(passwd().contains("\napp:x:1000:1000::/tmp:"));
    }
}
