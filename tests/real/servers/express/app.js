// An Express server as the manuals have it: express-session in its MemoryStore, or in a Redis.
//
//     node app.js NAME PORT [REDIS_URL]
//
// POST /login?user= begins a session, GET /whoami counts in it, GET /peek only looks, GET /health is for probes.
const { randomUUID } = require('crypto');
const express = require('express');
const session = require('express-session');

const [name, port, redisUrl] = process.argv.slice(2);
const instance = randomUUID();

async function store() {
  if (!redisUrl) return undefined;
  const { RedisStore } = require('connect-redis');
  const client = require('redis').createClient({ url: redisUrl });
  client.on('error', () => {});
  await client.connect();
  return new RedisStore({ client });
}

function answer(request, response) {
  const kept = request.session ?? {};
  const told = (header) => request.get(header) ?? null;
  response.json({
    served_by: name,
    user: kept.user ?? null,
    visits: kept.visits ?? null,
    rehomed_from: told('Stickpin-Rehomed-From'),
    rehome_reason: told('Stickpin-Rehome-Reason'),
    session_lost: told('Stickpin-Session-Lost'),
    heir: told('Stickpin-Heir'),
    pin_seen: (request.get('Cookie') ?? '').includes('stickpin='),
  });
}

async function main() {
  const app = express();
  app.get('/health', (request, response) => response.set('X-Instance', instance).send('UP'));
  // saveUninitialized: false, so that only a login begins a session.
  app.use(session({ secret: 'of all servers', resave: false, saveUninitialized: false, store: await store() }));
  app.post('/login', (request, response) => {
    Object.assign(request.session, { user: request.query.user, visits: 0 });
    answer(request, response);
  });
  app.get('/whoami', (request, response) => {
    if (request.session.user) request.session.visits += 1;
    answer(request, response);
  });
  app.get('/peek', answer);
  // Node closes idle connections after 5 s by itself, which a balancer then finds closed.
  app.listen(Number(port), '127.0.0.1').keepAliveTimeout = 60_000;
}

main();
