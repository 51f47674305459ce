"""Every number of the service, unit in the name, source beside it.

What differs between the Yandex and the AWS flavour of the service is in ``dialect.py``.
Sources: the PutRecord document ("doc"), Yandex Data Streams and its implementation ("YDB"), the Kinesis
model ("AWS"), or a choice of this engine ("ours").
"""

from typing import Final

# One record: doc, PutRecord request options.
RECORD_DATA_BYTES_MAX: Final = 1_048_576
PARTITION_KEY_CHARACTERS_MAX: Final = 256
STREAM_NAME_CHARACTERS_MAX: Final = 128
SHARD_ID_CHARACTERS_MAX: Final = 128
HASH_KEY_MAX: Final = 2**128 - 1  # AWS, YDB: an MD5 as an unsigned integer
SEQUENCE_NUMBER_DIGITS_MAX: Final = 129  # doc: 0|([1-9]\d{0,128})

# Many records in one call: AWS, YDB.
PUT_RECORDS_ENTRIES_MAX: Final = 500
PUT_RECORDS_BYTES_MAX: Final = 5 * 1_048_576  # data and partition keys

# What an ARN names, where the dialect has one: AWS for the shape; ours for what is named unless asked.
ACCOUNT_ID_DIGITS: Final = 12
ACCOUNT_ID_DEFAULT: Final = "000000000000"
REGION_CHARACTERS_MAX: Final = 32

# Reading: AWS, YDB.
GET_RECORDS_LIMIT_MAX: Final = 10_000
GET_RECORDS_BYTES_MAX: Final = 10 * 1_048_576
SHARD_ITERATOR_ALIVE_MS: Final = 300_000
NEXT_TOKEN_ALIVE_MS: Final = 300_000
TOKEN_CHARACTERS_MAX: Final = 512  # AWS: ShardIterator; ours for NextToken too
TIMESTAMP_AHEAD_MS_MAX: Final = 10_000  # YDB: AT_TIMESTAMP may lie this far in the future

# Consumers: AWS.
CONSUMER_NAME_CHARACTERS_MAX: Final = 128
ARN_CHARACTERS_MAX: Final = 2_048

# Subscriptions: AWS.
SUBSCRIPTION_ALIVE_MS: Final = 300_000
SUBSCRIPTION_HEARTBEAT_MS: Final = 5_000
SUBSCRIPTION_TAKEOVER_MS: Final = 5_000

# Waiting for records: ours.
IDLE_TIMEOUT_SECONDS_MAX: Final = 31_536_000

# Listing: AWS, YDB.
LIST_LIMIT_MAX: Final = 10_000
LIST_STREAMS_LIMIT_DEFAULT: Final = 100
DESCRIBE_STREAM_LIMIT_DEFAULT: Final = 100
LIST_SHARDS_LIMIT_DEFAULT: Final = 10_000  # ours: a local listing costs nothing
LIST_STREAM_CONSUMERS_LIMIT_DEFAULT: Final = 100

# Tags: AWS.
TAG_KEY_CHARACTERS_MAX: Final = 128
TAG_VALUE_CHARACTERS_MAX: Final = 256
TAG_KEY_PREFIX_RESERVED: Final = "aws:"
TAGS_PER_STREAM_MAX: Final = 50
TAGS_PER_CALL_MAX: Final = 50
LIST_TAGS_LIMIT_MAX: Final = 50

# Enhanced monitoring: AWS.
SHARD_LEVEL_METRICS_PER_CALL_MAX: Final = 7

# Write quota per shard: YDB values, 1,000 records/s from doc limits page. A shard saves up one second of it.
WRITE_QUOTA_KB_PER_SEC_CHOICES: Final = (128, 512, 1024)
WRITE_QUOTA_RECORDS_PER_SEC: Final = 1_000
WRITE_QUOTA_BURST_NS: Final = 1_000_000_000
# The most that one put can leave to be paid: a full second, and the largest record at the smallest quota.
WRITE_QUOTA_DEBT_NS_MAX: Final = WRITE_QUOTA_BURST_NS + (
    (RECORD_DATA_BYTES_MAX + 4 * PARTITION_KEY_CHARACTERS_MAX)
    * 1_000_000_000
    // (min(WRITE_QUOTA_KB_PER_SEC_CHOICES) * 1024)
    + 1
)

# Read quota per shard: AWS, YDB.
READ_QUOTA_CALLS_PER_SEC: Final = 5
READ_QUOTA_BYTES_PER_SEC: Final = 2 * 1_048_576
# The most that one call can leave to be paid: the largest page, five seconds' worth.
READ_QUOTA_DEBT_NS_MAX: Final = GET_RECORDS_BYTES_MAX * 1_000_000_000 // READ_QUOTA_BYTES_PER_SEC

# Trimming: ours. How many expired records one transaction of ``trim`` deletes; puts get in between.
TRIM_RECORDS_MAX: Final = 1_000

# Idempotent puts: ours. How long a key is remembered.
IDEMPOTENCY_WINDOW_SECONDS_DEFAULT: Final = 300
IDEMPOTENCY_WINDOW_MS_DEFAULT: Final = 1_000 * IDEMPOTENCY_WINDOW_SECONDS_DEFAULT
IDEMPOTENCY_WINDOW_SECONDS_MAX: Final = 3_600  # the least retention: what a key answers with is still there
IDEMPOTENCY_KEY_CHARACTERS_MAX: Final = 128
TRIM_IDEMPOTENCY_KEYS_MAX: Final = 1_000  # how many expired keys one transaction of ``trim`` deletes

# How much one store holds: ours. A shard is one named LMDB database, and a process keeps a handle for each
# it touched; LMDB reserves memory for as many as it may open (environment.py) in every transaction.
SHARDS_PER_STORE_MAX: Final = 4_000
ON_DEMAND_STREAMS_PER_STORE_MAX: Final = 50  # AWS: per account
SEQUENCE_NUMBER_MAX: Final = 2**64 - 1  # eight bytes on disk

# One request over HTTP: kinesalite. Room for the largest put_records in Base64.
REQUEST_BODY_BYTES_MAX: Final = 7 * 1_048_576

# How long the wire shows a change of a stream as under way: ours, an hour.
TRANSITION_MS_MAX: Final = 3_600_000

# What submit_record lets be on its way at once: ours.
IN_FLIGHT_REQUESTS_MAX: Final = 10_000
IN_FLIGHT_BYTES_MAX: Final = 64 * 1_048_576

# The memory map: ours. Address space, not disk.
MAP_BYTES_MIN: Final = 2**20
MAP_BYTES_DEFAULT: Final = 2**40
MAP_BYTES_MAX: Final = 2**46

assert RECORD_DATA_BYTES_MAX < GET_RECORDS_BYTES_MAX, "one page must hold the largest record"
