"""Written from stockade/v1/custody.proto by `make proto`; do not edit."""

from google.protobuf.internal import builder

from stockade.pool import POOL

DESCRIPTOR = POOL.AddSerializedFile(
    b'\n\x19stockade/v1/custody.proto\x12\x0bstockade.v1b\x06proto3'
    b'"O\n\x0cEraseRequest\x12\x0e\n\x06tenant\x18\x01 \x01(\t\x12\x0f\n\x07subject\x18\x02 \x01(\t\x12\x0e\n\x06months\x18\x03 \x03(\t\x12\x0e\n\x06reason\x18\x04 \x01(\t'
    b'"#\n\x15ApproveErasureRequest\x12\n\n\x02id\x18\x01 \x01(\t'
    b'"\xeb\x01\n\x0cErasureState\x12\n\n\x02id\x18\x01 \x01(\t\x12\r\n\x05state\x18\x02 \x01(\t\x12\x0e\n\x06tenant\x18\x03 \x01(\t\x12\x0f\n\x07subject\x18\x04 \x01(\t\x12\x11\n\tpseudonym\x18\x05 \x01(\t\x12\x0e\n\x06months\x18\x06 \x03(\t\x12\x0e\n\x06reason\x18\x07 \x01(\t\x12\x0c\n\x04keys\x18\x08 \x03(\t\x12\x14\n\x0crequested_by\x18\t \x01(\t\x12\x19\n\x11requested_unix_ns\x18\n \x01(\x03\x12\x13\n\x0bapproved_by\x18\x0b \x01(\t\x12\x18\n\x10approved_unix_ns\x18\x0c \x01(\x03'
    b'"^\n\rEraseResponse\x12\x10\n\x08accepted\x18\x01 \x01(\x08\x12\x0f\n\x07problem\x18\x02 \x01(\t\x12*\n\x07erasure\x18\x03 \x01(\x0b2\x19.stockade.v1.ErasureState'
    b'"(\n\x13ListErasuresRequest\x12\x11\n\tcount_max\x18\x01 \x01(\r'
    b'"C\n\x14ListErasuresResponse\x12+\n\x08erasures\x18\x01 \x03(\x0b2\x19.stockade.v1.ErasureState'
    b'" \n\x12ShowErasureRequest\x12\n\n\x02id\x18\x01 \x01(\t'
    b'"\x89\x01\n\tHoldState\x12\n\n\x02id\x18\x01 \x01(\t\x12\x0e\n\x06tenant\x18\x02 \x01(\t\x12\x0f\n\x07subject\x18\x03 \x01(\t\x12\x11\n\tpseudonym\x18\x04 \x01(\t\x12\x0e\n\x06matter\x18\x05 \x01(\t\x12\x15\n\radministrator\x18\x06 \x01(\t\x12\x15\n\rsince_unix_ns\x18\x07 \x01(\x03'
    b'"A\n\x0eSetHoldRequest\x12\x0e\n\x06tenant\x18\x01 \x01(\t\x12\x0f\n\x07subject\x18\x02 \x01(\t\x12\x0e\n\x06matter\x18\x03 \x01(\t'
    b'"0\n\x12ReleaseHoldRequest\x12\n\n\x02id\x18\x01 \x01(\t\x12\x0e\n\x06reason\x18\x02 \x01(\t'
    b'"W\n\x0cHoldResponse\x12\x10\n\x08accepted\x18\x01 \x01(\x08\x12\x0f\n\x07problem\x18\x02 \x01(\t\x12$\n\x04hold\x18\x03 \x01(\x0b2\x16.stockade.v1.HoldState'
    b'"\x12\n\x10ListHoldsRequest'
    b'":\n\x11ListHoldsResponse\x12%\n\x05holds\x18\x01 \x03(\x0b2\x16.stockade.v1.HoldState'
    b'"B\n\x12ReadPayloadRequest\x12\r\n\x05entry\x18\x01 \x01(\x04\x12\r\n\x05field\x18\x02 \x01(\t\x12\x0e\n\x06reason\x18\x03 \x01(\t'
    b'"7\n\x13ReadPayloadResponse\x12\x0f\n\x07payload\x18\x01 \x01(\x0c\x12\x0f\n\x07problem\x18\x02 \x01(\t'
    b'2\xa8\x02\n\x07Erasure\x12@\n\x07Request\x12\x19.stockade.v1.EraseRequest\x1a\x1a.stockade.v1.EraseResponse\x12I\n\x07Approve\x12".stockade.v1.ApproveErasureRequest\x1a\x1a.stockade.v1.EraseResponse\x12K\n\x04List\x12 .stockade.v1.ListErasuresRequest\x1a!.stockade.v1.ListErasuresResponse\x12C\n\x04Show\x12\x1f.stockade.v1.ShowErasureRequest\x1a\x1a.stockade.v1.EraseResponse'
    b'2\xd8\x01\n\tLegalHold\x12=\n\x03Set\x12\x1b.stockade.v1.SetHoldRequest\x1a\x19.stockade.v1.HoldResponse\x12E\n\x07Release\x12\x1f.stockade.v1.ReleaseHoldRequest\x1a\x19.stockade.v1.HoldResponse\x12E\n\x04List\x12\x1d.stockade.v1.ListHoldsRequest\x1a\x1e.stockade.v1.ListHoldsResponse'
    b'2U\n\x08Payloads\x12I\n\x04Read\x12\x1f.stockade.v1.ReadPayloadRequest\x1a .stockade.v1.ReadPayloadResponse'
)
builder.BuildMessageAndEnumDescriptors(DESCRIPTOR, globals())
builder.BuildTopDescriptorsAndMessages(DESCRIPTOR, 'stockade.v1.custody_pb2', globals())
