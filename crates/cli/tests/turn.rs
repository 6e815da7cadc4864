//! `roundtable turn config`, held against a real coturn.

#![allow(clippy::unwrap_used)] // these are tests

mod common;

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream, UdpSocket},
    path::Path,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU16, Ordering},
    time::Duration,
};

use common::{Serve, has_tool, refused, roundtable};

struct Coturn(Child);

impl Drop for Coturn {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs coturn with a configuration, in a directory of its own.
fn coturn(dir: &Path, config: &str) -> Coturn {
    let files = format!(
        "pidfile={0}/pid\nuserdb={0}/db\nlog-file=stdout\n",
        dir.display()
    );
    let path = dir.join("turnserver.conf");
    std::fs::write(&path, format!("{config}{files}")).unwrap();
    let mut command = Command::new("turnserver");
    command.arg("-c").arg(path);
    let null = || Stdio::null();
    Coturn(
        command
            .stdin(null())
            .stdout(null())
            .stderr(null())
            .spawn()
            .unwrap(),
    )
}

/// A port for UDP and TCP that is free, and below those that the system and other coturns give out.
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = u16::try_from(std::process::id() % 10_000).unwrap();
    let ports = || 20_000 + (start + NEXT.fetch_add(1, Ordering::Relaxed)) % 10_000;
    let is_free = |port: &u16| {
        let address = ("127.0.0.1", *port);
        UdpSocket::bind(address).is_ok() && TcpListener::bind(address).is_ok()
    };
    std::iter::repeat_with(ports).find(is_free).unwrap()
}

fn config(rest: &str) -> String {
    let line = format!("turn config --host turn.example.org --listen 127.0.0.1 {rest}");
    let output = roundtable(&line).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn get(server: &Serve, path: &str) -> String {
    let mut stream = TcpStream::connect(&server.address).unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).unwrap();
    response
}

/// What the server says of its TURN servers, once it has asked every one of them.
fn checks(server: &Serve) -> Vec<String> {
    for _ in 0..500 {
        let ready = get(server, "/readyz");
        let checks: Vec<_> = ready
            .lines()
            .filter(|line| line.contains(" over "))
            .map(str::to_owned)
            .collect();
        if !checks.is_empty() && checks.iter().all(|line| !line.contains("not yet checked")) {
            return checks;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("the TURN servers were never asked");
}

/// Starts servers until one has found coturn, which takes a moment to start.
fn checked(uri: &str, secret_file: &Path) -> Vec<String> {
    let line = format!(
        "--open --turn {uri} --turn-secret-file {}",
        secret_file.display()
    );
    for _ in 0..50 {
        let checks = checks(&Serve::with(&line));
        if checks.iter().all(|line| !line.contains("no connection")) {
            return checks;
        }
    }
    panic!("coturn never answered");
}

#[test]
fn what_is_printed_runs_coturn_and_opens_nothing_behind_it() {
    if !has_tool("turnserver", "coturn") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let secret = dir.path().join("secret");
    std::fs::write(&secret, "north\nsouth\n").unwrap();
    let port = free_port();
    let printed = config(&format!("--secret-file {} --port {port}", secret.display()));
    let running = coturn(dir.path(), &printed);
    let uri = format!("turn:127.0.0.1:{port}");
    // Either secret counts, and what is denied stays denied even if coturn is told to let it through otherwise.
    let other = dir.path().join("other");
    for (file, text) in [(&secret, "north\nsouth\n"), (&other, "south\n")] {
        std::fs::write(file, text).unwrap();
        let checks = checked(&uri, file);
        assert!(
            checks.iter().all(|line| line.ends_with(": up")),
            "{checks:?}"
        );
    }
    drop(running);

    let loopback = |line: &&str| !line.starts_with("denied-peer-ip=127.");
    let open: Vec<_> = printed
        .lines()
        .filter(loopback)
        .chain(["allow-loopback-peers"])
        .collect();
    let _running = coturn(dir.path(), &format!("{}\n", open.join("\n")));
    let checks = checked(&uri, &secret);
    assert!(
        checks
            .iter()
            .all(|line| line.contains("its own loopback addresses")),
        "{checks:?}"
    );
}

#[test]
fn with_a_certificate_coturn_speaks_tls_and_without_it_none() {
    if !has_tool("turnserver", "coturn") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let made = rcgen::generate_simple_self_signed(["localhost".into()]).unwrap();
    std::fs::write(path("key.pem"), made.signing_key.serialize_pem()).unwrap();
    std::fs::write(path("cert.pem"), made.cert.pem()).unwrap();
    std::fs::write(path("secret"), "north\n").unwrap();
    let (port, tls_port) = (free_port(), free_port());
    let secret = format!("--secret-file {}", path("secret").display());
    assert!(config(&secret).contains("no-tls\n"));
    let certificate = format!(
        "--tls-cert {} --tls-key {}",
        path("cert.pem").display(),
        path("key.pem").display()
    );
    let printed = config(&format!(
        "{secret} {certificate} --port {port} --tls-port {tls_port}"
    ));
    let _running = coturn(dir.path(), &printed);
    let uri = format!("turns:localhost:{tls_port}");
    let line = format!(
        "--open --turn {uri} --turn-secret-file {}",
        path("secret").display()
    );
    for _ in 0..50 {
        // Who trusts the certificate gets an allocation through it; nobody else does.
        let trusting = checks(&Serve::with_env(
            &line,
            &[("SSL_CERT_FILE", &path("cert.pem"))],
        ));
        if trusting[0].ends_with("over tls: up") {
            let checks = checks(&Serve::with(&line));
            assert!(checks[0].contains("down: no connection"), "{checks:?}");
            return;
        }
    }
    panic!("coturn never answered over TLS");
}

#[test]
fn what_makes_no_sense_is_refused_in_one_line() {
    let dir = tempfile::tempdir().unwrap();
    let secret = dir.path().join("secret");
    let good = format!("turn config --host h --secret-file {}", secret.display());
    for (text, rest, hint) in [
        ("", "", "first line"),
        ("a\nb\nc\n", "", "first line"),
        ("a b\n", "", "without blanks"),
        ("a\n", "--external-ip here", "--external-ip"),
        ("a\n", "--relay-ports 9-1", "--relay-ports"),
        ("a\n", "--tls-cert x", "--tls-key"),
    ] {
        std::fs::write(&secret, text).unwrap();
        refused(
            &roundtable(&format!("{good} {rest}")).output().unwrap(),
            hint,
        );
    }
    let host = format!("turn config --host a=b --secret-file {}", secret.display());
    refused(&roundtable(&host).output().unwrap(), "--host");
    refused(
        &roundtable("turn config --host h").output().unwrap(),
        "--secret-file",
    );
}
