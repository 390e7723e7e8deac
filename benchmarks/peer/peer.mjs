// BullMQ with nodemailer's pool or with undici, as the benchmarks run it: `node peer.mjs <role> <config as JSON>`.
//
// Roles: `add` (adds jobs), `pace` (adds one after another at fixed times), `send` (a worker that mails them), `post` (a worker that posts them to WhatsApp's API),
// `drain` (a worker that does nothing), `latency` (single jobs, queue only). A role prints one JSON object per line: {"ready":true} once it is set up, then its result. Roles
// that measure start when a line arrives on stdin. Times are ms since the epoch.
import { createInterface } from 'node:readline';
import { Queue, Worker } from 'bullmq';
import nodemailer from 'nodemailer';
import { Pool } from 'undici';

const QUEUE = 'messages';
const [role, text] = process.argv.slice(2);
const config = JSON.parse(text);
// a worker's blocking connection must not give up on a command
const connection = { host: '127.0.0.1', port: config.redisPort, maxRetriesPerRequest: null };
// as in the replaced system: three attempts, and a window of finished jobs
const jobOptions = {
  attempts: 3,
  backoff: { type: 'exponential', delay: 2000 },
  removeOnComplete: { count: 100 },
  removeOnFail: { count: 50 },
};

const now = () => performance.timeOrigin + performance.now();
const say = (line) => process.stdout.write(`${JSON.stringify(line)}\n`);
const go = () => new Promise((resolve) => createInterface({ input: process.stdin }).once('line', resolve));

function jobData(index) {
  const name = `Recipient ${index}`;
  if (config.channel === 'whatsapp') return { to: `${config.firstPhone + index}`, name };
  return {
    to: `r${index}@example.com`,
    name,
    subject: config.subject.replace('{{ name }}', name),
    html: config.html.replaceAll('{{ name }}', name),
    text: config.text.replaceAll('{{ name }}', name),
  };
}

async function add() {
  const queue = new Queue(QUEUE, { connection, defaultJobOptions: jobOptions });
  await queue.waitUntilReady();
  say({ ready: true });
  await go();
  const begun = now();
  for (let first = 0; first < config.jobs; first += config.chunk) {
    const size = Math.min(config.chunk, config.jobs - first);
    const jobs = Array.from({ length: size }, (_, i) => ({ name: config.channel, data: jobData(first + i) }));
    await queue.addBulk(jobs);
  }
  say({ begun, ended: now() });
  await queue.close();
}

async function work(processor) {
  const options = { connection, concurrency: config.concurrency, autorun: config.autorun };
  const worker = new Worker(QUEUE, processor, options);
  worker.on('error', (error) => process.stderr.write(`${error}\n`));
  await worker.waitUntilReady();
  let completed = 0;
  let failed = 0;
  const finished = new Promise((resolve) => {
    worker.on('completed', () => {
      completed += 1;
      if (completed + failed === config.jobs) resolve();
    });
    worker.on('failed', () => {
      failed += 1;
      if (completed + failed === config.jobs) resolve();
    });
  });
  say({ ready: true });
  await go();
  const begun = now();
  if (!config.autorun) worker.run();
  await finished;
  say({ begun, ended: now(), completed, failed });
  await go(); // wait until its processor time is read
  process.exit(0);
}

async function send() {
  const transport = nodemailer.createTransport({
    host: '127.0.0.1',
    port: config.smtpPort,
    pool: true,
    maxConnections: config.connections,
    maxMessages: config.messagesPerConnection,
    ignoreTLS: true,
    ...(config.dkim ? { dkim: config.dkim } : {}),
  });
  await work(async ({ data }) => {
    const { to, name, subject, html, text: plain } = data;
    const info = await transport.sendMail({ from: config.from, to: { name, address: to }, subject, html, text: plain });
    return { messageId: info.messageId };
  });
}

async function post() {
  const pool = new Pool(config.providerOrigin, { connections: config.connections });
  const headers = { authorization: `Bearer ${config.token}`, 'content-type': 'application/json', accept: 'application/json' };
  await work(async ({ data: { to, name } }) => {
    const message = {
      messaging_product: 'whatsapp',
      recipient_type: 'individual',
      to,
      type: 'template',
      template: {
        name: config.template,
        language: { policy: 'deterministic', code: 'en' },
        components: [{ type: 'body', parameters: [{ type: 'text', text: name }] }],
      },
    };
    const { statusCode, body } = await pool.request({
      method: 'POST', path: config.messagesPath, headers, body: JSON.stringify(message),
    });
    const answer = await body.json();
    if (statusCode !== 200) throw new Error(`HTTP ${statusCode}`);
    return { messageId: answer.messages[0].id };
  });
}

async function pace() {
  const queue = new Queue(QUEUE, { connection, defaultJobOptions: jobOptions });
  await queue.waitUntilReady();
  say({ ready: true });
  await go();
  const begun = now();
  const waits = [];
  const adding = [];
  for (let index = 0; index < config.jobs; index += 1) {
    const due = begun + (index * 1000) / config.rate;
    if (due > now()) await new Promise((resolve) => { setTimeout(resolve, due - now()); });
    adding.push(queue.add(config.channel, jobData(index)).then(() => waits.push(now() - due)));
  }
  await Promise.all(adding);
  say({ begun, ended: now(), waits });
  await queue.close();
}

async function latency() {
  const queue = new Queue(QUEUE, { connection, defaultJobOptions: jobOptions });
  let called = () => {};
  const worker = new Worker(QUEUE, async () => called(now()), { connection, concurrency: config.concurrency });
  await Promise.all([queue.waitUntilReady(), worker.waitUntilReady()]);
  say({ ready: true });
  await go();
  const waits = [];
  for (let index = 0; index < config.jobs; index += 1) {
    const start = new Promise((resolve) => { called = resolve; });
    await queue.add(config.channel, jobData(index));
    const answered = now();
    waits.push((await start) - answered);
    await new Promise((resolve) => { setTimeout(resolve, config.pauseMs); });
  }
  say({ waits });
  process.exit(0);
}

const roles = { add, pace, send, post, drain: () => work(async () => null), latency };
await roles[role]();
