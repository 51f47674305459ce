// Drives the client of AWS SDK for JavaScript v3: `new KinesisClient({})`, nothing more said; so it speaks HTTP/2.
// With the argument "cbor" it writes CBOR, with the codec of the SDK, in the envelope of the Java SDK, whose default
// that is: no client of npm or PyPI speaks it by itself.
import { createRequire } from "node:module";
import { createInterface } from "node:readline";

const require = createRequire(`${process.env.CLIENTS_NODE_MODULES}/`);
const kinesis = require("@aws-sdk/client-kinesis");
const { AwsSmithyRpcV2CborProtocol } = require("@aws-sdk/core/protocols");

// The service counts milliseconds in CBOR, where the codec, as the standard, counts seconds.
const withTimes = (value, scale) => {
    if (value instanceof Date) {
        return new Date(value.getTime() * scale);
    }
    if (value === null || typeof value !== "object" || value instanceof Uint8Array || Symbol.asyncIterator in value) {
        return value;
    }
    const mapped = Object.entries(value).map(([name, each]) => [name, withTimes(each, scale)]);
    return Array.isArray(value) ? mapped.map(([, each]) => each) : Object.fromEntries(mapped);
};

class Cbor extends AwsSmithyRpcV2CborProtocol {
    async serializeRequest(operation, input, context) {
        const request = await super.serializeRequest(operation, withTimes(input, 1000), context);
        const { "smithy-protocol": _, accept: __, ...headers } = request.headers;
        const own = { "content-type": "application/x-amz-cbor-1.1", "x-amz-target": `Kinesis_20131202.${operation.name}` };
        return Object.assign(request, { path: "/", headers: { ...headers, ...own } });
    }
    async deserializeResponse(operation, context, response) {
        return withTimes(await super.deserializeResponse(operation, context, response), 0.001);
    }
}

const asSent = (name, value) => {
    if (name === "Data") {
        return Buffer.from(value, "base64");
    }
    if (name === "Timestamp") {
        return new Date(value);
    }
    if (value === null || typeof value !== "object") {
        return value;
    }
    const mapped = Object.entries(value).map(([each, inner]) => [each, asSent(each, inner)]);
    return Array.isArray(value) ? mapped.map(([, inner]) => inner) : Object.fromEntries(mapped);
};

const asTold = (value) => {
    if (value instanceof Uint8Array) {
        return Buffer.from(value).toString("base64");
    }
    if (value instanceof Date) {
        return Math.round(value.getTime());
    }
    if (value === null || typeof value !== "object") {
        return value;
    }
    const mapped = Object.entries(value).map(([name, each]) => [name, asTold(each)]);
    const kept = mapped.filter(([name, each]) => each !== undefined && name !== "$metadata" && name !== "EventStream");
    return Array.isArray(value) ? kept.map(([, each]) => each) : Object.fromEntries(kept);
};

const client = new kinesis.KinesisClient(process.argv[2] === "cbor" ? { protocol: Cbor } : {});

const subscribe = async (recordsWanted, members, meanwhile) => {
    const { EventStream } = await client.send(new kinesis.SubscribeToShardCommand(members));
    const events = [];
    let records = 0;
    for await (const event of EventStream) {
        events.push(asTold(process.argv[2] === "cbor" ? withTimes(event, 0.001) : event).SubscribeToShardEvent);
        records += event.SubscribeToShardEvent.Records.length;
        if (records >= recordsWanted) {
            break;
        }
        if (events.length === 1 && meanwhile) {
            await act(meanwhile);
        }
    }
    return events;
};

const act = async ({ call, wait, subscribe: recordsWanted, members, meanwhile }) => {
    const sent = asSent("", members);
    if (wait) {
        await kinesis[`waitUntil${wait}`]({ client, maxWaitTime: 60 }, sent);
        return {};
    }
    if (recordsWanted !== undefined) {
        return subscribe(recordsWanted, sent, meanwhile);
    }
    return asTold(await client.send(new kinesis[`${call}Command`](sent)));
};

for await (const line of createInterface({ input: process.stdin })) {
    let told;
    try {
        told = { output: await act(JSON.parse(line)) };
    } catch (error) {
        if (!(error instanceof kinesis.KinesisServiceException)) {
            throw error;
        }
        const status = error.$metadata.httpStatusCode;
        told = { error: { code: error.name, message: error.message, status, class: error.constructor.name } };
    }
    process.stdout.write(`${JSON.stringify(told)}\n`);
}
process.exit(0);
