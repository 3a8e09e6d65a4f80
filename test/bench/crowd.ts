// APs that keep a measured one company, many in one process: on two cores there is no room for a process each. Reads one
// ticket a line, starts an AP with each, and says so.
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { pino } from 'pino'
import { Ap } from '../../node/ap.js'
import { loadConfig } from '../../node/config.js'

const [folder = '', name = ''] = process.argv.slice(2)
const log = pino({ level: 'silent' })
let count = 0
for await (const ticket of createInterface(process.stdin)) {
  const flags = {
    name: `${name}-${++count}`,
    join: ticket,
    listen: ['/ip4/0.0.0.0/tcp/0'],
    'docker-host': 'unix:///no/engine',
  }
  await Ap.start(await loadConfig(join(folder, flags.name), flags, {}), log)
  console.log(flags.name)
}
