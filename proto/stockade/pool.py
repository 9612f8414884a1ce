"""The descriptor pool of the generated wire types.

Clients such as tritonclient define the same protobuf package, `inference`, in protobuf's default pool, and a pool takes
one definition of a name. Ours are defined here instead, so that both can be imported into one process. Whoever needs
the descriptors (server reflection, for one) takes them from this pool.
"""

from google.protobuf.descriptor_pool import DescriptorPool

POOL = DescriptorPool()
