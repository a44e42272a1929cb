import radicale
import radicale.log

radicale.log.start()
application = radicale.Application()
