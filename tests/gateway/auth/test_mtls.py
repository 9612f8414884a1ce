import grpc
import pytest
from cryptography import x509

from gateway.auth.errors import IdentityRejected
from gateway.auth.mtls import NAMES_MAX, Certificates, certificate_names
from gateway.auth.principal import Presented
from gateway.errors import CredentialInvalid
from tests.gateway.auth.issuer import KIOSK, NOW_NS, OTHER, self_signed

SPIFFE = "spiffe://example.org/kiosk/7"
CERTIFICATES = Certificates([(SPIFFE, KIOSK), ("kiosk-7.example.org", KIOSK), ("kiosk-8.example.org", OTHER)])


def ask(*names):
    return CERTIFICATES.authenticate(Presented(spiffe=names), NOW_NS)


def test_a_spiffe_id_names_its_principal():
    principal = ask(SPIFFE)
    assert (principal.name, principal.method, principal.credential) == ("kiosk-7", "mtls", SPIFFE)


def test_several_dns_names_may_name_one_principal_and_not_two():
    assert ask("other.example.org", "kiosk-7.example.org").name == "kiosk-7"
    with pytest.raises(CredentialInvalid):
        ask("kiosk-7.example.org", "kiosk-8.example.org")


@pytest.mark.parametrize(
    "names", [(), ("spiffe://example.org/kiosk/8",), (SPIFFE + "/",), (SPIFFE.upper(),), ("*.example.org",), ("",)]
)
def test_a_certificate_that_names_nobody_is_nobody(names):
    assert ask(*names) is None


@pytest.mark.parametrize(
    "name",
    [
        "",
        "spiffe://",
        "spiffe://example.org",
        "spiffe://example.org/",
        "spiffe://example.org/a/",
        "spiffe://example.org/a//b",
        "spiffe://example.org/a/../b",
        "spiffe://example.org/./b",
        "spiffe://EXAMPLE.org/a",
        "spiffe://example.org/a?x",
        "spiffe://example.org/" + "a" * 2048,
        "*.example.org",
        "Kiosk.example.org",
        "-a.example.org",
        "a..b",
        "a" * 64 + ".org",
        "kiosk 7",
    ],
)
def test_a_name_that_cannot_be_in_a_certificate_is_refused(name):
    with pytest.raises(IdentityRejected):
        Certificates([(name, KIOSK)])


def test_a_name_belongs_to_one_principal():
    with pytest.raises(IdentityRejected, match="two principals"):
        Certificates([(SPIFFE, KIOSK), (SPIFFE, OTHER)])


def test_names_are_bounded():
    dns = [f"n{number}.example.org".encode() for number in range(NAMES_MAX + 1)]
    assert len(certificate_names({"peer_dns": dns[:-1]})) == NAMES_MAX
    assert certificate_names({"peer_dns": dns}) == ()


def test_the_untyped_list_and_the_common_name_do_not_count():
    context = {"x509_subject_alternative_name": [SPIFFE.encode()], "x509_common_name": [b"kiosk-7.example.org"]}
    assert certificate_names(context) == ()


def handshake(directory, names):
    """The names a real gRPC server sees when a client presents a certificate with these alternative names."""
    server_directory, client_directory = directory / "server", directory / "client"
    server_directory.mkdir()
    client_directory.mkdir()
    server_crt, server_key = self_signed(server_directory)
    client_crt, client_key = self_signed(client_directory, *names)
    seen = []

    def answer(request, context):
        seen.append(certificate_names(context.auth_context()))
        return request

    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as pool:
        server = grpc.server(pool)
        try:
            handlers = {"Echo": grpc.unary_unary_rpc_method_handler(answer)}
            server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("test.Echo", handlers)])
            credentials = grpc.ssl_server_credentials(
                [(server_key.read_bytes(), server_crt.read_bytes())], client_crt.read_bytes(), require_client_auth=True
            )
            port = server.add_secure_port("127.0.0.1:0", credentials)
            server.start()
            client = grpc.ssl_channel_credentials(
                server_crt.read_bytes(), client_key.read_bytes(), client_crt.read_bytes()
            )
            with grpc.secure_channel(f"127.0.0.1:{port}", client) as channel:
                channel.unary_unary("/test.Echo/Echo")(b"", timeout=30)
        finally:
            server.stop(0).wait()
    return seen[0]


@pytest.mark.parametrize(
    ("alternatives", "names"),
    [
        ([x509.UniformResourceIdentifier(SPIFFE)], (SPIFFE,)),
        ([x509.DNSName("KIOSK-7.example.org")], ("localhost", "kiosk-7.example.org")),
        ([x509.UniformResourceIdentifier(SPIFFE), x509.DNSName("kiosk-8.example.org")], (SPIFFE,)),
        ([x509.UniformResourceIdentifier(SPIFFE), x509.UniformResourceIdentifier("spiffe://example.org/b")], ()),
        ([x509.UniformResourceIdentifier("spiffe://example.org")], ()),
        ([x509.DNSName(SPIFFE)], ("localhost",)),
    ],
)
def test_names_of_a_real_handshake(tmp_path, alternatives, names):
    seen = handshake(tmp_path, alternatives)
    assert seen == names
