"""Written from stockade/v1/audit.proto by `make proto`; do not edit."""

from google.protobuf.internal import builder

from stockade.pool import POOL

DESCRIPTOR = POOL.AddSerializedFile(
    b'\n\x17stockade/v1/audit.proto\x12\x0bstockade.v1b\x06proto3'
    b'"\x16\n\x14GetCheckpointRequest'
    b'"+\n\x15GetCheckpointResponse\x12\x12\n\ncheckpoint\x18\x01 \x01(\x0c'
    b'"6\n\x12ListEntriesRequest\x12\r\n\x05start\x18\x01 \x01(\x04\x12\x11\n\tcount_max\x18\x02 \x01(\r'
    b'"5\n\x13ListEntriesResponse\x12\r\n\x05start\x18\x01 \x01(\x04\x12\x0f\n\x07entries\x18\x02 \x03(\x0c'
    b'"<\n\x18GetInclusionProofRequest\x12\r\n\x05index\x18\x01 \x01(\x04\x12\x11\n\ttree_size\x18\x02 \x01(\x04'
    b'"a\n\x19GetInclusionProofResponse\x12\r\n\x05index\x18\x01 \x01(\x04\x12\x11\n\ttree_size\x18\x02 \x01(\x04\x12\x0e\n\x06hashes\x18\x03 \x03(\x0c\x12\x12\n\ncheckpoint\x18\x04 \x01(\x0c'
    b'""\n\x11GetReceiptRequest\x12\r\n\x05index\x18\x01 \x01(\x04'
    b'"%\n\x12GetReceiptResponse\x12\x0f\n\x07receipt\x18\x01 \x01(\x0c'
    b'2\xe4\x02\n\x05Audit\x12V\n\rGetCheckpoint\x12!.stockade.v1.GetCheckpointRequest\x1a".stockade.v1.GetCheckpointResponse\x12P\n\x0bListEntries\x12\x1f.stockade.v1.ListEntriesRequest\x1a .stockade.v1.ListEntriesResponse\x12b\n\x11GetInclusionProof\x12%.stockade.v1.GetInclusionProofRequest\x1a&.stockade.v1.GetInclusionProofResponse\x12M\n\nGetReceipt\x12\x1e.stockade.v1.GetReceiptRequest\x1a\x1f.stockade.v1.GetReceiptResponse'
)
builder.BuildMessageAndEnumDescriptors(DESCRIPTOR, globals())
builder.BuildTopDescriptorsAndMessages(DESCRIPTOR, 'stockade.v1.audit_pb2', globals())
