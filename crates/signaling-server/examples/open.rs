//! An open signaling server with its page on the address given, or 127.0.0.1:8080, until Ctrl-C.

use roundtable_signaling_server::{Server, ServerConfig};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = std::env::args().nth(1);
    let listen = address.as_deref().unwrap_or("127.0.0.1:8080").parse()?;
    let server = Server::bind(ServerConfig::new(listen).with_open(true))?;
    println!("http://{}/?room=demo", server.local_addr());
    server
        .run(async {
            if let Err(error) = tokio::signal::ctrl_c().await {
                eprintln!("cannot wait for Ctrl-C: {error}");
            }
        })
        .await;
    Ok(())
}
