// How soon the machine finds a container that has just been started. Docker publishes a port some 0.2 s before the container
// has its interface. Whoever asks in between makes the kernel look for its address, and ask again only a second later; all
// that comes meanwhile waits for that. Measured after a power cut: 0.7 s of the time until another AP serves. (Docker 28
// has the container say where it is.)
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'

const NEIGHBOURS = '/proc/sys/net/ipv4/neigh'

/** The kernel's own are a second and three times: it gives up no sooner, but asks more often. */
const SETTINGS = { retrans_time_ms: 50, mcast_solicit: 60 }

/** Does nothing where the network is not this machine's, or the node may not change it. @param bridge the name of an interface */
export async function findSoon(bridge: string): Promise<void> {
  const folder = join(NEIGHBOURS, bridge)
  const writes = Object.entries(SETTINGS).map(([name, value]) => writeFile(join(folder, name), String(value)))
  await Promise.allSettled(writes)
}
