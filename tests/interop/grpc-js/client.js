#!/usr/bin/env node
// Calls xds:///<service> as ../client.hpp tells it on stdin. Where the control plane is, it knows from
// GRPC_XDS_BOOTSTRAP_CONFIG alone.
'use strict';

const path = require('path');
const readline = require('readline');
const grpc = require('@grpc/grpc-js');
const loader = require('@grpc/proto-loader');
require('@grpc/grpc-js-xds').register();

const file = path.join(__dirname, 'greeter.proto');
const {greeter} = grpc.loadPackageDefinition(loader.loadSync(file, {keepCase: true}));
const stubs = new Map();

function stubOf(service) {
  if (!stubs.has(service)) {
    stubs.set(service, new greeter.Greeter(`xds:///${service}`, grpc.credentials.createInsecure()));
  }
  return stubs.get(service);
}

function call(stub, wait) {
  const metadata = new grpc.Metadata({waitForReady: wait});
  const options = {deadline: Date.now() + 60000};
  return new Promise((resolve) => {
    stub.SayHello({name: 'you'}, metadata, options, (error, reply) => resolve({error, reply}));
  });
}

async function calls(service, count, wait) {
  const stub = stubOf(service);
  const served = new Map();
  const failed = new Map();
  let left = count;
  async function lane() {
    while (left-- > 0) {
      const {error, reply} = await call(stub, wait);
      if (!error) {
        served.set(reply.served_by, (served.get(reply.served_by) || 0) + 1);
      } else {
        const why = `${error.code} ${error.details.replace(/\s+/g, ' ')}`;
        failed.set(why, (failed.get(why) || 0) + 1);
      }
    }
  }
  const lanes = Array.from({length: 8}, lane);  // eight at a time
  console.log('begun');
  await Promise.all(lanes);
  for (const [id, each] of served) console.log(`served ${each} ${id}`);
  for (const [why, each] of failed) console.log(`failed ${each} ${why}`);
  console.log('end');
}

function close(service) {
  if (stubs.has(service)) stubs.get(service).close();
  stubs.delete(service);
  console.log('end');
}

const input = readline.createInterface({input: process.stdin});
input.on('line', (line) => {
  const [verb, service, count, wait] = line.split(' ');
  if (verb === 'close') return close(service);
  return calls(service, Number(count), wait === 'wait');
});
input.on('close', () => process.exit(0));
