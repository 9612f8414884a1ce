"""Written from stockade/v1/admin.proto by `make proto`; do not edit."""

from google.protobuf.internal import builder

from stockade.pool import POOL

DESCRIPTOR = POOL.AddSerializedFile(
    b'\n\x17stockade/v1/admin.proto\x12\x0bstockade.v1b\x06proto3'
    b'"\x0f\n\rStatusRequest'
    b'"\xea\x01\n\x0eStatusResponse\x12\r\n\x05build\x18\x01 \x01(\t\x12\x15\n\rconfig_digest\x18\x02 \x01(\t\x12\x15\n\rpolicy_digest\x18\x03 \x01(\t\x12\x17\n\x0fstarted_unix_ns\x18\x04 \x01(\x03\x12\x10\n\x08draining\x18\x05 \x01(\x08\x12$\n\x07workers\x18\x06 \x03(\x0b2\x13.stockade.v1.Worker\x12"\n\x06models\x18\x07 \x03(\x0b2\x12.stockade.v1.Model\x12&\n\x05audit\x18\x08 \x01(\x0b2\x17.stockade.v1.AuditState'
    b'"]\n\x06Worker\x12\x0e\n\x06number\x18\x01 \x01(\r\x12\x0b\n\x03pid\x18\x02 \x01(\x03\x12\r\n\x05ready\x18\x03 \x01(\x08\x12\x10\n\x08restarts\x18\x04 \x01(\r\x12\x15\n\rpolicy_digest\x18\x05 \x01(\t'
    b'"E\n\x05Model\x12\x0c\n\x04name\x18\x01 \x01(\t\x12\x0f\n\x07version\x18\x02 \x01(\t\x12\x0e\n\x06digest\x18\x03 \x01(\t\x12\r\n\x05ready\x18\x04 \x01(\x08'
    b'"`\n\nAuditState\x12\x0e\n\x06origin\x18\x01 \x01(\t\x12\x11\n\tavailable\x18\x02 \x01(\x08\x12\x11\n\ttree_size\x18\x03 \x01(\x04\x12\x1c\n\x14last_durable_unix_ns\x18\x04 \x01(\x03'
    b'"\x12\n\x10GetPolicyRequest'
    b'"3\n\x11GetPolicyResponse\x12\x0e\n\x06digest\x18\x01 \x01(\t\x12\x0e\n\x06policy\x18\x02 \x01(\x0c'
    b'".\n\x13ReloadPolicyRequest\x12\x17\n\x0fexpected_digest\x18\x01 \x01(\t'
    b'"b\n\x14ReloadPolicyResponse\x12\x0e\n\x06digest\x18\x01 \x01(\t\x12\x17\n\x0fprevious_digest\x18\x02 \x01(\t\x12\x10\n\x08accepted\x18\x03 \x01(\x08\x12\x0f\n\x07problem\x18\x04 \x01(\t'
    b'2\xeb\x01\n\x05Admin\x12A\n\x06Status\x12\x1a.stockade.v1.StatusRequest\x1a\x1b.stockade.v1.StatusResponse\x12J\n\tGetPolicy\x12\x1d.stockade.v1.GetPolicyRequest\x1a\x1e.stockade.v1.GetPolicyResponse\x12S\n\x0cReloadPolicy\x12 .stockade.v1.ReloadPolicyRequest\x1a!.stockade.v1.ReloadPolicyResponse'
)
builder.BuildMessageAndEnumDescriptors(DESCRIPTOR, globals())
builder.BuildTopDescriptorsAndMessages(DESCRIPTOR, 'stockade.v1.admin_pb2', globals())
