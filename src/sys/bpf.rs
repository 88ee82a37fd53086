//! Which BPF programs somebody attached to a cgroup (bpf(2), `BPF_PROG_QUERY`): they restrict what no cgroup file tells.

use std::os::fd::{AsFd, AsRawFd};

use nix::errno::Errno;
use nix::libc;

/// `BPF_PROG_QUERY` of linux/bpf.h.
const PROG_QUERY: libc::c_int = 16;

/// Where a program is attached: a number of `enum bpf_attach_type` in linux/bpf.h, which only ever grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attach {
    /// What comes in from the network.
    Ingress = 0,
    /// What goes out to it.
    Egress = 1,
    /// New sockets.
    SockCreate = 2,
    /// What connections do.
    SockOps = 3,
    /// Devices that are opened.
    Device = 6,
    /// Addresses that sockets are bound to.
    Bind4 = 8,
    /// As `Bind4`, for IPv6.
    Bind6 = 9,
    /// Addresses that sockets are connected to.
    Connect4 = 10,
    /// As `Connect4`, for IPv6.
    Connect6 = 11,
    /// Addresses that sockets were bound to.
    PostBind4 = 12,
    /// As `PostBind4`, for IPv6.
    PostBind6 = 13,
    /// Addresses that datagrams are sent to.
    SendMsg4 = 14,
    /// As `SendMsg4`, for IPv6.
    SendMsg6 = 15,
    /// Kernel settings below /proc/sys.
    Sysctl = 18,
    /// Addresses that datagrams come from.
    RecvMsg4 = 19,
    /// As `RecvMsg4`, for IPv6.
    RecvMsg6 = 20,
    /// Options of sockets that are read.
    GetSockOpt = 21,
    /// Options of sockets that are set.
    SetSockOpt = 22,
}

impl Attach {
    /// Those that can restrict what is in a cgroup. A kernel that does not know one refuses to tell of it.
    pub const ALL: [Self; 18] = [
        Self::Ingress,
        Self::Egress,
        Self::SockCreate,
        Self::SockOps,
        Self::Device,
        Self::Bind4,
        Self::Bind6,
        Self::Connect4,
        Self::Connect6,
        Self::PostBind4,
        Self::PostBind6,
        Self::SendMsg4,
        Self::SendMsg6,
        Self::Sysctl,
        Self::RecvMsg4,
        Self::RecvMsg6,
        Self::GetSockOpt,
        Self::SetSockOpt,
    ];

    /// Whether it is where systemd filters addresses (`IPAddressDeny=`, systemd.resource-control(5)).
    pub fn filters_addresses(&self) -> bool {
        matches!(self, Self::Ingress | Self::Egress)
    }

    /// As bpftool(8) calls it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Ingress => "cgroup_inet_ingress",
            Self::Egress => "cgroup_inet_egress",
            Self::SockCreate => "cgroup_inet_sock_create",
            Self::SockOps => "cgroup_sock_ops",
            Self::Device => "cgroup_device",
            Self::Bind4 => "cgroup_inet4_bind",
            Self::Bind6 => "cgroup_inet6_bind",
            Self::Connect4 => "cgroup_inet4_connect",
            Self::Connect6 => "cgroup_inet6_connect",
            Self::PostBind4 => "cgroup_inet4_post_bind",
            Self::PostBind6 => "cgroup_inet6_post_bind",
            Self::SendMsg4 => "cgroup_udp4_sendmsg",
            Self::SendMsg6 => "cgroup_udp6_sendmsg",
            Self::Sysctl => "cgroup_sysctl",
            Self::RecvMsg4 => "cgroup_udp4_recvmsg",
            Self::RecvMsg6 => "cgroup_udp6_recvmsg",
            Self::GetSockOpt => "cgroup_getsockopt",
            Self::SetSockOpt => "cgroup_setsockopt",
        }
    }
}

/// The part of `union bpf_attr` that a query uses, and the room that newer kernels write to.
#[repr(C, align(8))]
#[derive(Default)]
struct Query {
    target_fd: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    prog_cnt: u32,
    reserved: [u32; 9],
}

/// How many programs are attached to this cgroup itself at one place. It takes `CAP_NET_ADMIN`; without it, and on a
/// kernel without BPF, the kernel refuses to tell.
pub fn attached(cgroup: impl AsFd, at: Attach) -> Result<u32, Errno> {
    let target_fd = u32::try_from(cgroup.as_fd().as_raw_fd()).map_err(|_| Errno::EBADF)?;
    let mut query = Query { target_fd, attach_type: at as u32, ..Query::default() };
    // SAFETY: the kernel reads and writes no more than the size that is given, which is that of the structure; with no
    // array of numbers in it, it writes the count and flags only.
    let told = unsafe { libc::syscall(libc::SYS_bpf, PROG_QUERY, &raw mut query, size_of::<Query>()) };
    Errno::result(told)?;
    Ok(query.prog_cnt)
}
