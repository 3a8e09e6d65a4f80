// A registry in a process of its own, for tests that kill it. Prints its port.
import { pino } from 'pino'
import { BlobStore } from '../../../node/packages/blobs.js'
import { Registry } from '../../../node/packages/registry.js'

const log = pino({ level: 'error' }, process.stderr)
const store = await BlobStore.open(process.argv[2]!, { maxBytes: 2 ** 40, minFree: 0, log })
const registry = await Registry.open({ port: 0, store, log })
process.stdout.write(`${registry.port}\n`)
