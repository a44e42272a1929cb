"""The network: whom the app reaches, as whom, and by which kinds of sockets."""

import ctypes
import errno
import os
import select
import socket
import struct
import time

from kit import probe, refusals, word, Skipped

TIMEOUT_SECONDS = 1.5
METADATA = [
    ("169.254.169.254", 80), ("169.254.170.2", 80), ("169.254.1.1", 53), ("100.100.100.200", 80), ("192.0.0.192", 80),
    ("168.63.129.16", 80),
]
# By number, since this Python may know none of the names.
FAMILIES = {
    "ax25": 3, "x25": 9, "decnet": 12, "key": 15, "packet": 17, "rds": 21, "llc": 26, "can": 29, "tipc": 30,
    "bluetooth": 31, "rxrpc": 33, "phonet": 35, "ieee802154": 36, "alg": 38, "nfc": 39, "vsock": 40, "kcm": 41,
    "qipcrtr": 42, "smc": 43, "xdp": 44, "mctp": 45,
}
PROTOCOLS = {"igmp": 2, "ipip": 4, "dccp": 33, "gre": 47, "l2tp": 115, "sctp": 132, "udplite": 136, "smc": 256}
NETLINKS = {"usersock": 2, "sock_diag": 4, "nflog": 5, "xfrm": 6, "selinux": 7, "audit": 9, "fib_lookup": 10,
            "connector": 11, "netfilter": 12, "kobject_uevent": 15, "generic": 16, "crypto": 21}


def reach(targets):
    """Tries to connect to each of `targets` at the same time; a connection that is made counts."""
    streams, words = {}, set()
    for address, port in targets:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        stream = socket.socket(family, socket.SOCK_STREAM)
        stream.setblocking(False)
        number = stream.connect_ex((address, port))
        if number in (0, errno.EINPROGRESS):
            streams[stream] = "%s:%d" % (address, port)
        else:
            words.add(os.strerror(number).lower())
    through, waiting = [], dict(streams)
    end = time.monotonic() + TIMEOUT_SECONDS
    while waiting and time.monotonic() < end:
        _, done, _ = select.select([], list(waiting), [], max(0, end - time.monotonic()))
        for stream in done:
            number = stream.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            target = waiting.pop(stream)
            if number:
                words.add(os.strerror(number).lower())
            else:
                through.append(target)
    if waiting:
        words.add("no answer")
    for stream in streams:
        stream.close()
    if through:
        return False, "reached " + ", ".join(through)
    return True, "none of %d reached (%s)" % (len(targets), ", ".join(sorted(words)))


def send(address, port, text):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
        datagrams.sendto(text.encode(), (address, port))


def gateways():
    found = []
    with open("/proc/net/route") as file:
        for line in file.readlines()[1:]:
            gateway = line.split()[2]
            if gateway != "00000000":
                found.append(socket.inet_ntoa(struct.pack("<L", int(gateway, 16))))
    return found


def own_address():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
        datagrams.connect(("192.0.2.1", 9))  # Sends nothing.
        return datagrams.getsockname()[0]


@probe("network: reach a service of the host's", "no connection", in_build=True)
def host_service(facts):
    addresses = list(dict.fromkeys(facts["host_addresses"] + gateways()))
    return reach([(address, facts["tcp_port"]) for address in addresses])


@probe("network: send datagrams to a service of the host's", "none arrives; see outside", in_build=True)
def host_datagrams(facts):
    addresses = list(dict.fromkeys(facts["host_addresses"] + gateways()))
    refused = 0
    for address in addresses:
        try:
            send(address, facts["udp_port"], facts["nonce"] + " to " + address)
        except OSError:
            refused += 1
    return True, "sent to %d addresses, %d refused" % (len(addresses), refused)


@probe("network: reach the engine's own ports", "no connection", in_build=True)
def engine_ports(facts):
    addresses = list(dict.fromkeys(facts["host_addresses"] + gateways()))
    return reach([(address, port) for address in addresses for port in facts["engine_ports"]])


@probe("network: reach the host's loopback", "no connection", in_build=True)
def loopback(facts):
    return reach([("127.0.0.1", facts["tcp_port"]), ("127.0.0.2", facts["tcp_port"]), ("0.0.0.0", facts["tcp_port"])])


@probe("network: reach the host's abstract sockets", "no connection", in_build=True)
def abstract(facts):
    def attempt():
        with socket.socket(socket.AF_UNIX) as stream:
            stream.connect("\0" + facts["abstract"])

    return refusals({"abstract": attempt})


@probe("network: reach another tenant's app", "no connection", in_build=True)
def neighbour(facts):
    if not facts["neighbour"]:
        raise Skipped("the neighbour did not tell its address")
    return reach([(facts["neighbour"], facts["neighbour_port"]), (facts["neighbour"], 8000), (facts["neighbour"], 22)])


@probe("network: look for others in its subnet", "nobody answers", in_build=True)
def subnet(facts):
    own = own_address()
    head, last = own.rsplit(".", 1)
    near = ["%s.%d" % (head, it) for it in range(max(1, int(last) - 24), min(254, int(last) + 24)) if it != int(last)]
    return reach([(address, facts["neighbour_port"]) for address in near])


@probe("network: reach link-local addresses and a cloud's metadata", "no connection", in_build=True)
def link_local(facts):
    return reach(METADATA)


@probe("network: use IPv6", "no way out", in_build=True)
def ipv6(facts):
    try:
        with open("/proc/net/if_inet6") as file:
            own = [line.split()[0] for line in file if not line.startswith("0" * 31 + "1")]
    except OSError:
        own = []
    held, words = reach([("2001:db8::1", 80), ("fd00:ec2::254", 80), ("fe80::1", 80), ("2606:4700::1111", 443)])
    return held and not own, words + (", addresses: " + ", ".join(own) if own else ", no address")


@probe("network: open raw and packet sockets", "refused", in_build=True)
def raw(facts):
    return refusals({
        "raw": lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW),
        "raw icmp": lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP),
        "raw 6": lambda: socket.socket(socket.AF_INET6, socket.SOCK_RAW, 58),
        "packet": lambda: socket.socket(17, socket.SOCK_RAW, 0),
        "packet datagrams": lambda: socket.socket(17, socket.SOCK_DGRAM, 0),
    })


@probe("network: open sockets of other families", "refused", in_build=True)
def families(facts):
    attempts = {}
    for name, number in FAMILIES.items():
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW, socket.SOCK_SEQPACKET):
            attempts["%s %d" % (name, kind)] = lambda it=number, kind=kind: socket.socket(it, kind, 0)
    return refusals(attempts)


@probe("network: speak the internet's rare protocols", "refused", in_build=True)
def protocols(facts):
    attempts = {}
    for name, number in PROTOCOLS.items():
        for family in (socket.AF_INET, socket.AF_INET6):
            for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET):
                attempts["%s %d %d" % (name, family, kind)] = (
                    lambda family=family, kind=kind, it=number: socket.socket(family, kind, it)
                )
    return refusals(attempts, only=("EPERM",))


@probe("network: ask the kernel by netlink beyond one's own routes", "refused", in_build=True)
def netlink(facts):
    return refusals({
        name: lambda it=number: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, it) for name, number in NETLINKS.items()
    })


def change_by_netlink(kind, flags, body):
    """Sends one request to the routing netlink, and raises what it answers."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as route:
        route.settimeout(TIMEOUT_SECONDS)
        route.sendto(struct.pack("IHHII", 16 + len(body), kind, 0x5 | flags, 1, 0) + body, (0, 0))
        answer = route.recv(4096)
    number = -struct.unpack("i", answer[16:20])[0]
    if number:
        raise OSError(number, os.strerror(number))


@probe("network: change its interface, address or routes", "refused", in_build=True)
def interface(facts):
    index = socket.if_nametoindex("eth0")
    attribute = lambda kind, data: struct.pack("HH", 4 + len(data), kind) + data + bytes(-len(data) % 4)
    address = socket.inet_aton("198.18.255.254")
    link = struct.pack("BBHiII", 0, 0, 0, index, 0, 0)
    return refusals({
        "address": lambda: change_by_netlink(20, 0x600, struct.pack("BBBBi", 2, 32, 0, 0, index) + attribute(2, address)),
        "MAC": lambda: change_by_netlink(19, 0, link + attribute(1, b"\x02\0\0\0\0\x01")),
        "down": lambda: change_by_netlink(19, 0, struct.pack("BBHiII", 0, 0, 0, index, 0, 1)),
        "new link": lambda: change_by_netlink(16, 0x600, link + attribute(3, b"x0\0")),
        "route": lambda: change_by_netlink(
            24, 0x600, struct.pack("BBBBBBBBI", 2, 32, 0, 0, 254, 3, 253, 1, 0) + attribute(1, address) + attribute(4, struct.pack("i", index))
        ),
        "neighbour": lambda: change_by_netlink(
            28, 0x600, struct.pack("BBHiHBB", 2, 0, 0, index, 0x80, 0, 0) + attribute(1, address) + attribute(2, b"\x02\0\0\0\0\x01")
        ),
    })


@probe("network: shape, filter or mirror its traffic", "refused", in_build=True)
def traffic_control(facts):
    index = socket.if_nametoindex("eth0")
    message = struct.pack("BBHiIII", 0, 0, 0, index, 0, 0xFFFFFFFF, 0)
    attribute = struct.pack("HH", 10, 1) + b"pfifo\0" + bytes(2)
    return refusals({
        "add": lambda: change_by_netlink(36, 0x600, message + attribute),
        "delete": lambda: change_by_netlink(37, 0, message),
    })


@probe("network: send as somebody else", "refused, or none arrives; see outside", in_build=True)
def forge(facts):
    sender = facts["neighbour"] or "198.18.0.9"
    sent, words = 0, set()
    for claimed in (sender, "127.0.0.1", "203.0.113.7"):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
            datagrams.setsockopt(socket.IPPROTO_IP, 15, 1)  # IP_FREEBIND
            try:
                datagrams.bind((claimed, 0))
                for address in gateways() + facts["host_addresses"][:4]:
                    datagrams.sendto((facts["nonce"] + " forged").encode(), (address, facts["udp_port"]))
                    sent += 1
            except OSError as error:
                words.add(word(error))
    return True, "%d sent, refused: %s" % (sent, ", ".join(sorted(words)) or "none")


@probe("network: take addresses that are not its own", "refused", in_build=True)
def transparent(facts):
    def option(level, name):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
            datagrams.setsockopt(level, name, 1)

    return refusals({
        "IP_TRANSPARENT": lambda: option(socket.IPPROTO_IP, 19),
        "SO_MARK": lambda: option(socket.SOL_SOCKET, 36),
        "SO_RCVBUFFORCE": lambda: option(socket.SOL_SOCKET, 33),
        "SO_DEBUG": lambda: option(socket.SOL_SOCKET, 1),
    })


@probe("network: attach programs to sockets", "refused", in_build=True)
def programs(facts):
    """Each takes room of the kernel's that all share, its own filters included."""
    # ret 0xffffffff
    code = ctypes.create_string_buffer(struct.pack("HBBI", 6, 0, 0, 0xFFFFFFFF))
    program = struct.pack("HxxxxxxQ", 1, ctypes.addressof(code))

    def attach(name, value):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
            datagrams.setsockopt(socket.SOL_SOCKET, name, value)

    return refusals({
        "SO_ATTACH_FILTER": lambda: attach(26, program),
        "SO_ATTACH_BPF": lambda: attach(50, 0),
        "SO_ATTACH_REUSEPORT_CBPF": lambda: attach(51, program),
        "SO_ATTACH_REUSEPORT_EBPF": lambda: attach(52, 0),
    }, only=("EPERM",))


@probe("network: lead sockets to rarely used protocols", "refused", in_build=True)
def upper_protocols(facts):
    def set_option(kind, level, name, value):
        with socket.socket(socket.AF_INET, kind) as one:
            one.setsockopt(level, name, value)

    return refusals({
        "TCP_ULP": lambda: set_option(socket.SOCK_STREAM, 6, 31, b"tls"),
        "UDP_ENCAP for IPsec": lambda: set_option(socket.SOCK_DGRAM, 17, 100, 2),
        "UDP_ENCAP for L2TP": lambda: set_option(socket.SOCK_DGRAM, 17, 100, 3),
    }, only=("EPERM",))


@probe("network: fill the table of neighbours that all share", "refused", in_build=True)
def neighbours(facts):
    """Each address that a packet goes to past all routes takes a place in it, and so does each group of receivers."""
    by_interface = [(socket.IPPROTO_IP, 8, struct.pack("I8x", socket.if_nametoindex("eth0")))]  # IP_PKTINFO
    dont_route = 4  # MSG_DONTROUTE

    def send(address, ancillary=(), flags=0):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
            datagrams.sendmsg([b"x"], ancillary, flags, (address, 9))

    return refusals({
        "past all routes": lambda: send("192.0.2.9", by_interface, dont_route),
        "to the next in line": lambda: send("198.51.100.9", by_interface, dont_route),
        "to a group": lambda: send("239.1.2.3"),
        "to a group by an interface": lambda: send("239.1.2.4", by_interface),
    }, only=("EPERM",))


@probe("network: join groups of receivers", "refused", in_build=True)
def groups(facts):
    """A list that the kernel goes through while nobody else can set up a network, in memory that it counts as nobody's."""
    def join(family, level, name, value):
        with socket.socket(family, socket.SOCK_DGRAM) as datagrams:
            datagrams.setsockopt(level, name, value)

    group = socket.inet_aton("239.1.2.3")
    group_6 = socket.inet_pton(socket.AF_INET6, "ff01::1:2")
    request = struct.pack("I4xHH4s120x", 1, socket.AF_INET, 0, group)
    request_6 = struct.pack("I4xHHI16sI100x", 1, socket.AF_INET6, 0, 0, group_6, 0)
    return refusals({
        "IP_ADD_MEMBERSHIP": lambda: join(socket.AF_INET, 0, 35, group + socket.inet_aton("127.0.0.1")),
        "IP_ADD_SOURCE_MEMBERSHIP": lambda: join(socket.AF_INET, 0, 39, group + socket.inet_aton("127.0.0.1") + socket.inet_aton("192.0.2.1")),
        "MCAST_JOIN_GROUP": lambda: join(socket.AF_INET, 0, 42, request),
        "IPV6_JOIN_GROUP": lambda: join(socket.AF_INET6, 41, 20, group_6 + struct.pack("I", 1)),
        "IPV6_JOIN_ANYCAST": lambda: join(socket.AF_INET6, 41, 27, group_6 + struct.pack("I", 1)),
        "MCAST_JOIN_GROUP of IPv6": lambda: join(socket.AF_INET6, 41, 42, request_6),
    }, only=("EPERM",))


@probe("network: read or set the firewall", "refused", in_build=True)
def firewall(facts):
    def table():
        with socket.socket(socket.AF_INET, socket.SOCK_RAW, 255) as raw_socket:
            raw_socket.getsockopt(0, 64, 84)

    return refusals({
        "iptables": table,
        "nftables": lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12),
        "conntrack table": lambda: open("/proc/net/nf_conntrack").close(),
    })
