// `npm run bench`: the figures in README.md. Prints medians over at least five runs; the machine should have nothing else
// to do. `npm run bench -- failover` runs one of them.
import { failover } from './failover.js'
import { flood } from './flood.js'
import { idle } from './idle.js'
import { ledger } from './ledger.js'
import { neighbourhood } from './neighbourhood.js'
import { powercut } from './powercut.js'
import { publish } from './publish.js'
import { pulses } from './pulses.js'
import { registry } from './registry.js'
import { restart } from './restart.js'
import { standstill } from './standstill.js'
import { transfer } from './transfer.js'

const benches: Record<string, () => Promise<void>> = {
  failover,
  powercut,
  publish,
  idle,
  ledger,
  pulses,
  restart,
  standstill,
  neighbourhood,
  flood,
  registry,
  transfer,
}
const chosen = process.argv.slice(2)
const unknown = chosen.filter((name) => !Object.hasOwn(benches, name))
if (unknown.length > 0) {
  console.error(`there is no benchmark ${unknown.join(', ')}; there are ${Object.keys(benches).join(', ')}`)
  process.exit(2)
}
for (const [name, run] of Object.entries(benches)) if (chosen.length === 0 || chosen.includes(name)) await run()
process.exit(0)
