//! A real TURN server on loopback.

use std::{
    net::{Ipv4Addr, TcpListener, UdpSocket},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU16, Ordering},
    time::Duration,
};

use roundtable_transport_webrtc::IceServer;

/// Its only user.
pub const USER: &str = "alice";
pub const PASSWORD: &str = "wonder";

/// A coturn on ports of its own; ends with the test.
pub struct Coturn {
    pub port: u16,
    pub tls_port: u16,
    /// The certificate of its TLS port, DER.
    pub certificate: Vec<u8>,
    process: Child,
    _dir: tempfile::TempDir,
}

/// A port for UDP and TCP that is free, and below those that the system and other coturns give out.
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = u16::try_from(std::process::id() % 10_000).unwrap();
    let ports = || 10_000 + (start + NEXT.fetch_add(1, Ordering::Relaxed)) % 10_000;
    let is_free = |port: &u16| {
        let address = (Ipv4Addr::LOCALHOST, *port);
        UdpSocket::bind(address).is_ok() && TcpListener::bind(address).is_ok()
    };
    std::iter::repeat_with(ports).find(is_free).unwrap()
}

/// Whether a program is there that a test needs. Where it is not, says how to get it, or fails in a
/// strict run (`cargo xtask ci --strict`).
pub fn has_tool(program: &str, package: &str) -> bool {
    let runs = Command::new(program).arg("--version").output().is_ok();
    let missing = format!("SKIP: no {program} (apt-get install {package})");
    assert!(
        runs || std::env::var_os("ROUNDTABLE_STRICT").is_none(),
        "{missing}"
    );
    if !runs {
        eprintln!("{missing}");
    }
    runs
}

impl Coturn {
    /// `None` where there is no coturn.
    pub fn start(lines: &[&str]) -> Option<Self> {
        if !has_tool("turnserver", "coturn") {
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let (port, tls_port) = (free_port(), free_port());
        let made = rcgen::generate_simple_self_signed(["127.0.0.1".into(), "localhost".into()]);
        let made = made.unwrap();
        std::fs::write(dir.path().join("cert.pem"), made.cert.pem()).unwrap();
        let key = made.signing_key.serialize_pem();
        std::fs::write(dir.path().join("key.pem"), key).unwrap();
        let mut config = format!(
            "listening-ip=127.0.0.1\nrelay-ip=127.0.0.1\nlistening-port={port}\ntls-listening-port={tls_port}\n\
             realm=lab\nlt-cred-mech\nuser={USER}:{PASSWORD}\nallow-loopback-peers\nno-cli\nno-dtls\n\
             cert={0}/cert.pem\npkey={0}/key.pem\nlog-file={0}/log\nsimple-log\npidfile={0}/pid\nuserdb={0}/db\n",
            dir.path().display()
        );
        for line in lines {
            config += &format!("{line}\n");
        }
        let path = dir.path().join("turnserver.conf");
        std::fs::write(&path, config).unwrap();
        let process = Command::new("turnserver")
            .arg("-c")
            .arg(path)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let coturn = Self {
            port,
            tls_port,
            certificate: made.cert.der().to_vec(),
            process,
            _dir: dir,
        };
        coturn.wait_until_it_listens();
        Some(coturn)
    }

    fn wait_until_it_listens(&self) {
        for port in [self.port, self.tls_port] {
            let tried = (0..200).any(|_| {
                std::thread::sleep(Duration::from_millis(50));
                std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok()
            });
            assert!(tried, "coturn does not listen on port {port}");
        }
    }

    /// This server under a URL, with credentials.
    pub fn server(&self, url: String) -> IceServer {
        with_credentials(url, PASSWORD)
    }
}

pub fn with_credentials(url: String, password: &str) -> IceServer {
    IceServer {
        urls: vec![url],
        username: Some(USER.into()),
        credential: Some(password.into()),
    }
}

impl Drop for Coturn {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
