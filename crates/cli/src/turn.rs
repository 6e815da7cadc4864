//! `roundtable turn config`: a configuration for coturn that lets in who has our credentials, and nobody behind it.

use std::{
    fmt::{self, Write as _},
    fs, io,
    net::IpAddr,
    path::PathBuf,
};

use crate::error::CliError;

/// What no peer's address may be: what is not the public internet (the registries of special addresses, RFC 6890, and
/// multicast). A relay that reached these would open the network that it stands in.
const DENIED: [&str; 28] = [
    "0.0.0.0-0.255.255.255",
    "10.0.0.0-10.255.255.255",
    "100.64.0.0-100.127.255.255",
    "127.0.0.0-127.255.255.255",
    "169.254.0.0-169.254.255.255",
    "172.16.0.0-172.31.255.255",
    "192.0.0.0-192.0.0.255",
    "192.0.2.0-192.0.2.255",
    "192.88.99.0-192.88.99.255",
    "192.168.0.0-192.168.255.255",
    "198.18.0.0-198.19.255.255",
    "198.51.100.0-198.51.100.255",
    "203.0.113.0-203.0.113.255",
    "224.0.0.0-255.255.255.255",
    // Not `::`, which coturn takes for every address there is; by itself it relays to no such peer.
    "::1",
    // IPv4 in IPv6 form, which releases before 4.9 do not compare with the ranges above (CVE-2026-27624).
    "::ffff:0.0.0.0-::ffff:255.255.255.255",
    "64:ff9b::-64:ff9b::ffff:ffff",
    "64:ff9b:1::-64:ff9b:1:ffff:ffff:ffff:ffff:ffff",
    "100::-100::ffff:ffff:ffff:ffff",
    "2001::-2001:1ff:ffff:ffff:ffff:ffff:ffff:ffff",
    "2001:db8::-2001:db8:ffff:ffff:ffff:ffff:ffff:ffff",
    "2002::-2002:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
    "3fff::-3fff:fff:ffff:ffff:ffff:ffff:ffff:ffff",
    "5f00::-5f00:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
    "fc00::-fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
    "fe80::-febf:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
    "fec0::-feff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
    "ff00::-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
];

/// What the configuration is for.
#[derive(Debug, clap::Args)]
pub(crate) struct TurnConfigArgs {
    /// The name under which clients reach coturn; also its realm
    #[arg(long, value_name = "NAME")]
    host: String,

    /// The file with the secret that is shared with the signaling server. While the secret is changed, it may hold both,
    /// a line each
    #[arg(long, value_name = "FILE")]
    secret_file: PathBuf,

    /// The PEM file with the certificates for turns: URIs. Without it there is neither TLS nor DTLS
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,

    /// The PEM file with the certificate's private key
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,

    /// An address to listen on and to relay from. May be repeated; without it coturn takes all it finds
    #[arg(long, value_name = "IP")]
    listen: Vec<IpAddr>,

    /// Where coturn stands behind NAT: the public address, or PUBLIC/PRIVATE
    #[arg(long, value_name = "IP[/IP]", value_parser = external)]
    external_ip: Option<String>,

    /// The port for UDP and TCP
    #[arg(long, value_name = "PORT", default_value_t = 3478)]
    port: u16,

    /// The port for TLS
    #[arg(long, value_name = "PORT", default_value_t = 5349)]
    tls_port: u16,

    /// The first and the last port to relay from
    #[arg(long, value_name = "PORT-PORT", default_value = "49152-65535", value_parser = ports)]
    relay_ports: (u16, u16),

    /// Most allocations of one peer. It makes one for each way to this server, of each of its links
    #[arg(long, value_name = "N", default_value_t = 64)]
    user_quota: u32,

    /// Most allocations of all peers
    #[arg(long, value_name = "N", default_value_t = 6000)]
    total_quota: u32,

    /// Most bytes a second of one allocation, each way
    #[arg(long, value_name = "N", default_value_t = 1_000_000)]
    max_bytes_per_second: u64,
}

/// Prints the configuration.
pub(crate) fn config(args: &TurnConfigArgs) -> Result<(), CliError> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-');
    if args.host.is_empty() || !args.host.chars().all(is_name) {
        return Err(CliError::TurnHost(args.host.clone()));
    }
    let secrets = secrets(args).map_err(|source| CliError::TurnSecret {
        path: args.secret_file.clone(),
        source,
    })?;
    let mut text = String::new();
    write(&mut text, args, &secrets).map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
    // A reader that has gone away has had what it wants.
    let _ = io::Write::write_all(&mut io::stdout(), text.as_bytes());
    Ok(())
}

/// One or two secrets, as long as they can stand on a line of the configuration.
fn secrets(args: &TurnConfigArgs) -> io::Result<Vec<String>> {
    let text = fs::read_to_string(&args.secret_file)?;
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let secrets: Vec<_> = lines.map(str::to_owned).collect();
    let fits = |secret: &String| {
        !secret.contains(|c: char| c.is_whitespace() || c.is_control() || c == '#')
    };
    match (1..=2).contains(&secrets.len()) && secrets.iter().all(fits) {
        true => Ok(secrets),
        false => Err(io::ErrorKind::InvalidData.into()),
    }
}

fn write(f: &mut String, args: &TurnConfigArgs, secrets: &[String]) -> fmt::Result {
    writeln!(
        f,
        "# coturn beside a Roundtable signaling server, made by `roundtable turn config`."
    )?;
    writeln!(
        f,
        "# It holds a secret: keep it from other users (chmod 640, group turnserver)."
    )?;
    writeln!(
        f,
        "\n# Who gets in: peers with credentials of the signaling server, for as long as those last."
    )?;
    writeln!(
        f,
        "realm={}\nserver-name={}\nuse-auth-secret",
        args.host, args.host
    )?;
    for secret in secrets {
        writeln!(f, "static-auth-secret={secret}")?;
    }
    writeln!(f, "stale-nonce=600\nfingerprint")?;
    writeln!(
        f,
        "\n# Where it listens, and from which ports it relays. Open both in the firewall."
    )?;
    addresses(f, args)?;
    match (&args.tls_cert, &args.tls_key) {
        (Some(cert), Some(key)) => {
            writeln!(
                f,
                "\n# TLS, for networks that let nothing else out. Send SIGUSR2 when the files have changed."
            )?;
            writeln!(f, "tls-listening-port={}", args.tls_port)?;
            writeln!(f, "cert={}\npkey={}", cert.display(), key.display())?;
            writeln!(f, "no-tlsv1\nno-tlsv1_1\nno-dtls")?;
        }
        _ => writeln!(f, "\n# No certificate was given.\nno-tls\nno-dtls")?,
    }
    writeln!(f, "\n# How much anyone may take.")?;
    writeln!(
        f,
        "user-quota={}\ntotal-quota={}",
        args.user_quota, args.total_quota
    )?;
    writeln!(f, "max-bps={}", args.max_bytes_per_second)?;
    writeln!(
        f,
        "\n# Nothing but relaying datagrams, and nothing told to strangers."
    )?;
    writeln!(
        f,
        "no-cli\nno-tcp-relay\nno-multicast-peers\nno-software-attribute\nno-rfc5780"
    )?;
    writeln!(
        f,
        "\n# Whom nobody reaches through it: everything that is not the public internet."
    )?;
    for range in DENIED {
        writeln!(f, "denied-peer-ip={range}")?;
    }
    Ok(())
}

fn addresses(f: &mut String, args: &TurnConfigArgs) -> fmt::Result {
    for ip in &args.listen {
        writeln!(f, "listening-ip={ip}\nrelay-ip={ip}")?;
    }
    if let Some(external) = &args.external_ip {
        writeln!(f, "external-ip={external}")?;
    }
    writeln!(f, "listening-port={}", args.port)?;
    writeln!(
        f,
        "min-port={}\nmax-port={}",
        args.relay_ports.0, args.relay_ports.1
    )?;
    Ok(())
}

fn external(text: &str) -> Result<String, String> {
    let is_ip = |text: &str| text.parse::<IpAddr>().is_ok();
    match text.split_once('/') {
        Some((public, private)) if is_ip(public) && is_ip(private) => Ok(text.to_owned()),
        None if is_ip(text) => Ok(text.to_owned()),
        _ => Err("give an address, such as 192.0.2.7, or two, such as 192.0.2.7/10.0.0.7".into()),
    }
}

fn ports(text: &str) -> Result<(u16, u16), String> {
    let parsed = text.split_once('-').and_then(|(first, last)| {
        let (first, last): (u16, u16) = (first.parse().ok()?, last.parse().ok()?);
        (1024 <= first && first < last).then_some((first, last))
    });
    parsed.ok_or_else(|| "give two ports above 1023, such as 49152-65535".into())
}
