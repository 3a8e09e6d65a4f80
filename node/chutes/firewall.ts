// That chutes do not reach the services of their AP: its ssh, its engine's API, its node. They come in by the bridges of
// their networks, all named alike, so one rule of the AP's own INPUT is enough, for those to come as well. An engine that
// restarts leaves it alone. Knows nothing of chutes.
import { type Chain, fillChain } from '../iptables.js'

/** What the bridges of chutes are called; the kernel takes 15 characters. */
export const BRIDGE = 'dm-'

// Answers pass, such as those of a chute that serves. So do questions for names, since the AP may be who answers them on
// its LAN; whatever else the AP has for INPUT comes after.
const RULES = [
  '-m conntrack --ctstate RELATED,ESTABLISHED -j RETURN',
  '-p udp --dport 53 -j RETURN',
  '-p tcp --dport 53 -j RETURN',
  '-p tcp -j REJECT --reject-with tcp-reset',
  '-j REJECT',
]

/**
 * Makes sure of the rule, on the machine of this process; repeating it changes nothing.
 * @returns why it could not, or undefined
 */
export async function keepChutesOut(): Promise<string | undefined> {
  const keepOut = (program: Chain['program']) =>
    fillChain({ program, table: 'filter', name: 'DROPMESH', from: ['INPUT', '-i', `${BRIDGE}+`] }, RULES)
  // Chutes have no IPv6 unless the engine gives it to all containers; where the machine has none there is nothing to refuse.
  const [why] = await Promise.all([keepOut('iptables'), keepOut('ip6tables')])
  return why
}
