//! A name server that answers octet by octet as a test says: also what no right one would.

use std::net::SocketAddr;
use std::sync::Arc;

use hickory_proto::op::Message;
use hickory_proto::serialize::binary::BinDecodable;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

use crate::dns::bind_both;
use crate::log::Log;
use crate::tasks::Tasks;

/// How a query came.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Over {
    /// In a datagram.
    Udp,
    /// In a stream. Where nothing is answered, it ends.
    Tcp,
}

/// The octets of the answer; none: nothing is said.
type Answers = Arc<dyn Fn(&Message, Over) -> Option<Vec<u8>> + Send + Sync>;

/// The server; it ends when this is dropped.
#[derive(Debug)]
pub struct NameServer {
    address: SocketAddr,
    queries: Arc<Log<(Message, Over)>>,
    _tasks: Tasks,
}

impl NameServer {
    /// Serves UDP and TCP on one ephemeral loopback port.
    pub async fn start(
        answer: impl Fn(&Message, Over) -> Option<Vec<u8>> + Send + Sync + 'static,
    ) -> Self {
        let (udp, tcp) = bind_both().await;
        Self::serve(udp, Some(tcp), Arc::new(answer))
    }

    /// The same where nobody listens on TCP.
    pub async fn start_without_tcp(
        answer: impl Fn(&Message, Over) -> Option<Vec<u8>> + Send + Sync + 'static,
    ) -> Self {
        let (udp, _) = bind_both().await;
        Self::serve(udp, None, Arc::new(answer))
    }

    fn serve(udp: UdpSocket, tcp: Option<TcpListener>, answers: Answers) -> Self {
        let (tasks, queries) = (Tasks::default(), Arc::<Log<_>>::default());
        let address = udp.local_addr().expect("bound");
        tasks.spawn(datagrams(udp, Arc::clone(&answers), Arc::clone(&queries)));
        if let Some(tcp) = tcp {
            tasks.spawn(streams(tcp, answers, Arc::clone(&queries)));
        }
        Self { address, queries, _tasks: tasks }
    }

    /// Where to ask.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Every query so far.
    pub fn queries(&self) -> &Log<(Message, Over)> {
        &self.queries
    }

    /// How many came so.
    pub fn asked(&self, over: Over) -> usize {
        self.queries.read(|all| all.iter().filter(|(_, how)| *how == over).count())
    }

    /// An empty answer to `query`, without EDNS.
    pub fn reply(query: &Message) -> Message {
        let mut reply = Message::response(query.metadata.id, query.metadata.op_code);
        reply.metadata.recursion_desired = true;
        reply.metadata.recursion_available = true;
        reply.add_queries(query.queries.iter().cloned());
        reply
    }
}

async fn datagrams(socket: UdpSocket, answers: Answers, queries: Arc<Log<(Message, Over)>>) {
    let mut buffer = [0; 4096];
    while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
        let Ok(query) = Message::from_bytes(&buffer[..length]) else { continue };
        let answer = answers(&query, Over::Udp);
        queries.push((query, Over::Udp));
        if let Some(octets) = answer {
            let _ = socket.send_to(&octets, from).await;
        }
    }
}

async fn streams(listener: TcpListener, answers: Answers, queries: Arc<Log<(Message, Over)>>) {
    while let Ok((stream, _)) = listener.accept().await {
        let _ = stream_of(stream, &answers, &queries).await;
    }
}

async fn stream_of(
    mut stream: TcpStream,
    answers: &Answers,
    queries: &Log<(Message, Over)>,
) -> std::io::Result<()> {
    loop {
        let length = stream.read_u16().await?;
        let mut octets = vec![0; length.into()];
        stream.read_exact(&mut octets).await?;
        let Ok(query) = Message::from_bytes(&octets) else { return Ok(()) };
        let answer = answers(&query, Over::Tcp);
        queries.push((query, Over::Tcp));
        let Some(octets) = answer else { return Ok(()) };
        stream.write_u16(octets.len().try_into().expect("a DNS message")).await?;
        stream.write_all(&octets).await?;
    }
}
